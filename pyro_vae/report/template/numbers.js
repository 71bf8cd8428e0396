// Numbers: unpacking, special functions, random draws, small matrices.

const LOG_2PI = Math.log(2 * Math.PI);

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

function halfToNumber(h) {
  const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// Little-endian float32 or float16, as pyro_vae/report/packing.py writes them.
function unpack(pack) {
  const bytes = bytesOf(pack.base64), view = new DataView(bytes.buffer);
  const half = pack.kind === "float16", width = half ? 2 : 4;
  const values = new Float32Array(bytes.length / width);
  for (let i = 0; i < values.length; i++)
    values[i] = half ? halfToNumber(view.getUint16(2 * i, true)) : view.getFloat32(4 * i, true);
  return values;
}

function unpackData(pack) {
  if (pack.kind === "float32") return unpack(pack);
  const bytes = bytesOf(pack.base64);
  if (pack.kind === "bytes") return Float32Array.from(bytes, (b) => b / pack.over);
  return Float32Array.from({ length: pack.size }, (_, i) => (bytes[i >> 3] >> (i & 7)) & 1);
}

const take = (values, [place, size]) => values.subarray(place, place + size);

const softplus = (t) => (t > 0 ? t + Math.log1p(Math.exp(-t)) : Math.log1p(Math.exp(t)));
const sigmoid = (t) => (t >= 0 ? 1 / (1 + Math.exp(-t)) : Math.exp(t) / (1 + Math.exp(t)));
const logSigmoid = (t) => -softplus(-t);

// The error function: its series about zero, a continued fraction beyond.
function erf(t) {
  const a = Math.abs(t), square = a * a;
  if (a > 6) return Math.sign(t);
  if (a < 2.5) {
    let term = a, sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * sum && n < 100; n++) {
      term *= -square / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(t) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(t) * (1 - Math.exp(-square) / Math.sqrt(Math.PI) / (a + fraction));
}

// log of the Gamma function at positive arguments: Stirling's series after a shift.
function logGamma(t) {
  let shift = 0;
  while (t < 10) shift += Math.log(t++);
  const i = 1 / t, j = i * i;
  const series = i * (1 / 12 - j * (1 / 360 - j * (1 / 1260 - j * (1 / 1680 - j / 1188))));
  return (t - 0.5) * Math.log(t) - t + LOG_2PI / 2 + series - shift;
}

function logSumExp(values, from = 0, size = values.length) {
  let top = -Infinity, sum = 0;
  for (let i = from; i < from + size; i++) if (values[i] > top) top = values[i];
  if (top === -Infinity) return top;
  for (let i = from; i < from + size; i++) sum += Math.exp(values[i] - top);
  return top + Math.log(sum);
}

// Draws of N(0, 1) from a seed: sfc32 and the method of Box and Muller.
function normals(seed) {
  let a = 0x9e3779b9, b = 0x243f6a88, c = seed | 0, d = 1, kept = null;
  const bits = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return t >>> 0;
  };
  for (let i = 0; i < 20; i++) bits();
  return () => {
    if (kept !== null) {
      const value = kept;
      kept = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log((bits() + 1) / 4294967297));
    const angle = (2 * Math.PI * (bits() + (bits() + 0.5) / 4294967296)) / 4294967296;
    kept = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

// Lower Cholesky factor of a symmetric matrix, rows one after another.
function cholesky(matrix, n) {
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j];
      for (let k = 0; k < j; k++) sum -= lower[i * n + k] * lower[j * n + k];
      lower[i * n + j] = i === j ? Math.sqrt(sum) : sum / lower[j * n + j];
    }
  return lower;
}
