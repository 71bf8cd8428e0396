// Networks: lists of operations on rows, as pyro_vae/report/operations.py writes them.

const ACTIVATIONS = {
  tanh: Math.tanh,
  relu: (t) => Math.max(t, 0),
  softplus,
  sigmoid,
  silu: (t) => t * sigmoid(t),
  gelu: (t) => 0.5 * t * (1 + erf(t * Math.SQRT1_2)),
};

// Four rows at once: each weight is read once for all of them.
function affine(map, weights, x) {
  const inner = map.in, outer = map.out, rows = x.length / inner;
  const w = take(weights, map.weight), b = map.bias && take(weights, map.bias);
  const y = new Float64Array(rows * outer);
  for (let r = 0; r < rows; r += 4) {
    const many = Math.min(4, rows - r), p = r * inner;
    const q = p + (many > 1 ? inner : 0), s = p + (many > 2 ? 2 * inner : 0);
    const t = p + (many > 3 ? 3 * inner : 0);
    for (let o = 0; o < outer; o++) {
      const start = b ? b[o] : 0, from = o * inner;
      let first = start, second = start, third = start, fourth = start;
      for (let i = 0; i < inner; i++) {
        const v = w[from + i];
        first += v * x[p + i];
        second += v * x[q + i];
        third += v * x[s + i];
        fourth += v * x[t + i];
      }
      y[r * outer + o] = first;
      if (many > 1) y[(r + 1) * outer + o] = second;
      if (many > 2) y[(r + 2) * outer + o] = third;
      if (many > 3) y[(r + 3) * outer + o] = fourth;
    }
  }
  return y;
}

// A bias of each channel or of each pixel.
function addBias(y, bias, channels, pixels) {
  const each = bias.length === channels ? pixels : 1;
  for (let i = 0; i < y.length; i++) y[i] += bias[Math.floor(i / each) % bias.length];
}

// Both convolutions go through the same pairs of pixels: (i of the small side) * stride + k -
// padding of the large side.
function convolve(op, weights, x, transposed) {
  const [inChannels, inHeight, inWidth] = op.in, [outChannels, outHeight, outWidth] = op.out;
  const [kh, kw] = op.kernel, [sh, sw] = op.stride, [ph, pw] = op.padding;
  const inSize = inChannels * inHeight * inWidth, outSize = outChannels * outHeight * outWidth;
  const rows = x.length / inSize, w = take(weights, op.weight);
  const y = new Float64Array(rows * outSize);
  const smallHeight = transposed ? inHeight : outHeight, smallWidth = transposed ? inWidth : outWidth;
  const largeHeight = transposed ? outHeight : inHeight, largeWidth = transposed ? outWidth : inWidth;
  for (let r = 0; r < rows; r++)
    for (let o = 0; o < outChannels; o++)
      for (let c = 0; c < inChannels; c++) {
        const kernel = (transposed ? c * outChannels + o : o * inChannels + c) * kh * kw;
        const source = r * inSize + c * inHeight * inWidth;
        const target = r * outSize + o * outHeight * outWidth;
        const small = transposed ? source : target, large = transposed ? target : source;
        for (let k = 0; k < kh; k++)
          for (let l = 0; l < kw; l++) {
            const v = w[kernel + k * kw + l];
            if (v === 0) continue;
            for (let i = 0; i < smallHeight; i++) {
              const row = i * sh + k - ph;
              if (row < 0 || row >= largeHeight) continue;
              const a = small + i * smallWidth, b = large + row * largeWidth + l - pw;
              const first = Math.max(0, Math.ceil((pw - l) / sw));
              const last = Math.min(smallWidth - 1, Math.floor((largeWidth - 1 + pw - l) / sw));
              if (transposed) for (let j = first; j <= last; j++) y[b + j * sw] += v * x[a + j];
              else for (let j = first; j <= last; j++) y[a + j] += v * x[b + j * sw];
            }
          }
      }
  if (op.bias) addBias(y, take(weights, op.bias), outChannels, outHeight * outWidth);
  return y;
}

const OPERATIONS = {
  linear: (op, weights, x) => affine(op, weights, x),
  activation: (op, weights, x) => x.map(ACTIVATIONS[op.name]),
  gate(op, weights, x) {
    const y = affine(op.linear, weights, x), gate = affine(op.gate, weights, x);
    for (let i = 0; i < y.length; i++) y[i] *= sigmoid(gate[i]);
    return y;
  },
  convolution: (op, weights, x) => convolve(op, weights, x, false),
  transposed: (op, weights, x) => convolve(op, weights, x, true),
  residual(op, weights, x) {
    const y = network(op.branch, weights, x);
    for (let i = 0; i < y.length; i++) y[i] += x[i];
    return y;
  },
};

// Rows of inputs to rows of outputs.
function network(operations, weights, x) {
  let y = Float64Array.from(x);
  for (const op of operations) y = OPERATIONS[op.kind](op, weights, y);
  return y;
}
