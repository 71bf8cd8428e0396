// Densities of one datum: p(z), p(x|z) and q(z|x), as pyro_vae/report/families.py describes them.

const normalLogDensity = (t, loc, scale) =>
  -0.5 * ((t - loc) / scale) ** 2 - Math.log(scale) - LOG_2PI / 2;
const laplaceLogDensity = (t, loc, scale) => -Math.abs(t - loc) / scale - Math.log(2 * scale);
function studentLogDensity(t, loc, scale, degrees) {
  const half = degrees / 2, y = (t - loc) / scale;
  const constant = logGamma(half + 0.5) - logGamma(half) - 0.5 * Math.log(degrees * Math.PI);
  return constant - Math.log(scale) - (half + 0.5) * Math.log1p((y * y) / degrees);
}

// A value that takes one of the levels k / top, and that a logistic density was rounded to.
function roundedLogistic(x, loc, scale, top) {
  const level = Math.round(x * top);
  const upper = ((level + 0.5) / top - loc) / scale, lower = ((level - 0.5) / top - loc) / scale;
  const first = level <= 0, last = level >= top;
  return (
    (last ? 0 : logSigmoid(upper)) +
    (first ? 0 : logSigmoid(-lower)) +
    (first || last ? 0 : Math.log(-Math.expm1(-1 / (top * scale))))
  );
}
function roundedLogisticMean(loc, scale, top) {
  let total = 0;
  for (let k = 0; k < top; k++) total += sigmoid((loc - (k + 0.5) / top) / scale);
  return total / top;
}

const LEAST_RATE = 1e-6;
const rateOf = (raw) => LEAST_RATE + softplus(raw);

// log((e^l - 1) / l), the normalizing constant of the continuous Bernoulli, and its derivative.
function continuousConstant(l) {
  const a = Math.abs(l);
  if (a < 0.05) return l / 2 + (l * l) / 24 - l ** 4 / 2880;
  return (l > 0 ? l : 0) + Math.log(-Math.expm1(-a) / a);
}
function continuousMean(l) {
  const a = Math.abs(l);
  if (a < 0.05) return 0.5 + l / 12 - l ** 3 / 720;
  return 0.5 + Math.sign(l) * (-1 / Math.expm1(-a) - 1 / a - 0.5);
}

// By family, the log density and the mean of one value x from its outputs. ``at(j)`` is output j of
// the value, ``scale`` its scale where the family has one.
const VALUES = {
  bernoulli: {
    log: (x, at) => x * at(0) - softplus(at(0)),
    mean: (at) => sigmoid(at(0)),
  },
  "continuous-bernoulli": {
    log: (x, at) => x * at(0) - continuousConstant(at(0)),
    mean: (at) => continuousMean(at(0)),
  },
  normal: { log: (x, at, scale) => normalLogDensity(x, at(0), scale), mean: (at) => at(0) },
  laplace: { log: (x, at, scale) => laplaceLogDensity(x, at(0), scale), mean: (at) => at(0) },
  "student-t": {
    log: (x, at, scale, family) => studentLogDensity(x, at(0), scale, family.degrees),
    mean: (at) => at(0),
  },
  "discretized-logistic": {
    log: (x, at, scale, family) => roundedLogistic(x, at(0), scale, family.levels - 1),
    mean: (at, scale, family) => roundedLogisticMean(at(0), scale, family.levels - 1),
  },
  "logistic-mixture": {
    log(x, at, scale, family) {
      const n = family.components, terms = new Float64Array(n), logits = terms.map((_, j) => at(j));
      const total = logSumExp(logits);
      for (let j = 0; j < n; j++) {
        const s = family.floor + softplus(at(2 * n + j));
        terms[j] = logits[j] - total + roundedLogistic(x, at(n + j), s, family.levels - 1);
      }
      return logSumExp(terms);
    },
    mean(at, scale, family) {
      const n = family.components, logits = Float64Array.from({ length: n }, (_, j) => at(j));
      const total = logSumExp(logits);
      return logits.reduce((sum, logit, j) => {
        const s = family.floor + softplus(at(2 * n + j));
        return sum + Math.exp(logit - total) * roundedLogisticMean(at(n + j), s, family.levels - 1);
      }, 0);
    },
  },
  categorical: {
    log(x, at, scale, family) {
      const logits = Float64Array.from({ length: family.levels }, (_, j) => at(j));
      return logits[Math.round(x)] - logSumExp(logits);
    },
    mean(at, scale, family) {
      let best = 0;
      for (let j = 1; j < family.levels; j++) if (at(j) > at(best)) best = j;
      return best;
    },
  },
  binomial: {
    log(x, at, scale, family) {
      const n = family.trials;
      const ways = logGamma(n + 1) - logGamma(x + 1) - logGamma(n - x + 1);
      return ways + x * at(0) - n * softplus(at(0));
    },
    mean: (at, scale, family) => family.trials * sigmoid(at(0)),
  },
  poisson: {
    log: (x, at) => x * Math.log(rateOf(at(0))) - rateOf(at(0)) - logGamma(x + 1),
    mean: (at) => rateOf(at(0)),
  },
  "negative-binomial": {
    log(x, at, dispersion) {
      const r = 1 / dispersion, m = rateOf(at(0));
      const rising = logGamma(x + r) - logGamma(r) - x * Math.log(r);
      return rising - (r + x) * Math.log1p(m / r) + x * Math.log(m) - logGamma(x + 1);
    },
    mean: (at) => rateOf(at(0)),
  },
};

// p(x|z) of the outputs of one row: log density of a datum, and mean.
function likelihoodOf(family, numbers) {
  const one = VALUES[family.family], size = family.size;
  const scales = family.scale ? take(numbers, family.scale) : null;
  const scaled = "scale" in family;
  const reader = (output, row) => {
    const from = row * (output.length / output.rows);
    return (d) => {
      const at = (j) => output.values[from + j * size + d];
      if (!scaled) return [at, 1];
      const scale = scales ? scales[scales.length > 1 ? d : 0] : family.floor + softplus(at(1));
      return [at, scale];
    };
  };
  return {
    logDensity(x, output, row) {
      const read = reader(output, row);
      let total = 0;
      for (let d = 0; d < size; d++) {
        const [at, scale] = read(d);
        total += one.log(x[d], at, scale, family);
      }
      return total;
    },
    mean(output, row) {
      const read = reader(output, row);
      return Float64Array.from({ length: size }, (_, d) => one.mean(...read(d), family));
    },
  };
}

// p(z): log density of row ``row`` of z.
function priorOf(family, numbers) {
  const loc = take(numbers, family.loc), scale = take(numbers, family.scale);
  if (family.family === "mixture") {
    const logits = take(numbers, family.logits), components = logits.length;
    const n = loc.length / components, terms = new Float64Array(components);
    const constants = Float64Array.from(logits, (logit, j) => {
      for (let d = 0; d < n; d++) logit -= Math.log(scale[j * n + d]) + LOG_2PI / 2;
      return logit;
    });
    return (z, row) => {
      for (let j = 0; j < components; j++) {
        let square = 0;
        for (let d = 0; d < n; d++)
          square += ((z[row * n + d] - loc[j * n + d]) / scale[j * n + d]) ** 2;
        terms[j] = constants[j] - square / 2;
      }
      return logSumExp(terms);
    };
  }
  const density = {
    normal: normalLogDensity,
    laplace: laplaceLogDensity,
    "student-t": (t, m, s) => studentLogDensity(t, m, s, family.degrees),
  }[family.family];
  const n = loc.length;
  return (z, row) => {
    let total = 0;
    for (let d = 0; d < n; d++) total += density(z[row * n + d], loc[d], scale[d]);
    return total;
  };
}

const LEAST_SCALE = 1e-5, LARGEST_FACTOR = 30;
const scaleOf = (raw) => LEAST_SCALE + softplus(raw);

// q(z|x) from the encoder's output for one datum: mean, lower factor of the covariance, and the log
// density of z = mean + factor * noise.
function posteriorOf(family, output, n) {
  const mean = output.slice(0, n), factor = new Float64Array(n * n);
  if (family === "normal")
    for (let d = 0; d < n; d++) factor[d * n + d] = scaleOf(output[n + d]);
  if (family === "full")
    for (let i = 0; i < n; i++) {
      const scale = scaleOf(output[n + i * n + i]);
      factor[i * n + i] = scale;
      for (let j = 0; j < i; j++)
        factor[i * n + j] = (scale * output[n + i * n + j]) / Math.sqrt(n);
    }
  let lower = factor;
  if (family === "low-rank") {
    const rank = output.length / n - 2, covariance = new Float64Array(n * n);
    const scale = Float64Array.from({ length: n }, (_, d) => scaleOf(output[n + d]));
    const column = (d, r) => LARGEST_FACTOR * Math.tanh(output[(2 + r) * n + d] / LARGEST_FACTOR);
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        let sum = i === j ? 1 : 0;
        for (let r = 0; r < rank; r++) sum += column(i, r) * column(j, r);
        covariance[i * n + j] = scale[i] * scale[j] * sum;
      }
    lower = cholesky(covariance, n);
  }
  let constant = (-n * LOG_2PI) / 2;
  for (let d = 0; d < n; d++) constant -= Math.log(lower[d * n + d]);
  return {
    mean,
    lower,
    covariance(i, j) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += lower[i * n + k] * lower[j * n + k];
      return sum;
    },
    place(noise, row, z) {
      for (let i = 0; i < n; i++) {
        let value = mean[i];
        for (let k = 0; k <= i; k++) value += lower[i * n + k] * noise[row * n + k];
        z[row * n + i] = value;
      }
    },
    logDensityOfNoise(noise, row) {
      let square = 0;
      for (let d = 0; d < n; d++) square += noise[row * n + d] ** 2;
      return constant - square / 2;
    },
    logDensity(z) {
      const noise = new Float64Array(n);
      for (let i = 0; i < n; i++) {
        let value = z[i] - mean[i];
        for (let k = 0; k < i; k++) value -= lower[i * n + k] * noise[k];
        noise[i] = value / lower[i * n + i];
      }
      return this.logDensityOfNoise(noise, 0);
    },
  };
}
