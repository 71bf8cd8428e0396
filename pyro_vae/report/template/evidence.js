// How good importance weights are, as pyro_vae/evidence/diagnostics.py computes it.

// Largest k to trust of so many draws.
const paretoThreshold = (draws) => (draws > 10 ? Math.min(1 - 1 / Math.log10(draws), 0.7) : 0);

// Shape of the generalized Pareto distribution fitted to the largest weights.
function paretoK(logWeights) {
  const draws = logWeights.length;
  const tail = draws > 225 ? Math.floor(3 * Math.sqrt(draws)) : Math.floor(draws / 5);
  if (tail < 5) return NaN;
  const top = Float64Array.from(logWeights).sort().reverse().subarray(0, tail + 1);
  const cutoff = Math.max(top[tail], top[0] - 700), quartile = Math.floor(tail / 4 + 0.5);
  const excess = new Float64Array(tail);
  for (let i = 0; i < tail; i++)
    excess[tail - 1 - i] = Math.exp(cutoff - top[0]) * Math.expm1(Math.max(top[i], cutoff) - cutoff);
  if (!(excess[tail - 1] > 1e-9)) return NaN;
  if (excess[quartile] === 0) return Infinity;
  const grid = 30 + Math.floor(Math.sqrt(tail)), b = new Float64Array(grid);
  const fit = new Float64Array(grid);
  const shape = (value) => {
    let sum = 0;
    for (let i = 0; i < tail; i++) sum += Math.log1p(-value * excess[i]);
    return sum / tail;
  };
  for (let i = 0; i < grid; i++) {
    b[i] = 1 / excess[tail - 1] + (1 - Math.sqrt(grid / (i + 0.5))) / (3 * excess[quartile - 1]);
    const k = shape(b[i]);
    fit[i] = tail * (Math.log(-b[i] / k) - k - 1);
  }
  const total = logSumExp(fit);
  const mean = b.reduce((sum, value, i) => sum + Math.exp(fit[i] - total) * value, 0);
  return (tail * shape(mean) + 5) / (tail + 10);
}

// Everything that is said of log weights log p(x, z) - log q(z|x) of draws of q, in nats.
function diagnose(logWeights) {
  const draws = logWeights.length, total = logSumExp(logWeights);
  const plain = total - Math.log(draws);
  let squares = 0, variance = 0, correction = 0, elbo = 0, spread = 0;
  for (const value of logWeights) elbo += value / draws;
  for (const value of logWeights) {
    const weight = draws * Math.exp(value - total);
    squares += weight * weight;
    variance += (weight - 1) ** 2 / (draws - 1);
    correction += Math.log1p(Math.max(-1, (1 - weight) / (draws - 1))) / draws;
    spread += (value - elbo) ** 2 / (draws - 1);
  }
  const jackknife = plain - (draws - 1) * correction;
  return {
    draws,
    plain,
    logPx: Number.isFinite(jackknife) ? jackknife : plain,
    standardError: draws > 1 ? Math.sqrt(variance / draws) : NaN,
    ess: (draws * draws) / squares,
    k: paretoK(logWeights),
    limit: paretoThreshold(draws),
    elbo,
    elboError: Math.sqrt(spread / draws),
  };
}

// Why an estimate is to doubt; empty if it is not.
function doubtOf(found) {
  const spread = found.draws / found.ess - 1;
  if (found.draws < 25 && spread > 1e-8) return "few draws";
  if (found.draws >= 5 && !(found.ess >= 1.2 && Number.isFinite(found.standardError)))
    return "one weight";
  return found.k > found.limit && spread > (found.draws >= 225 ? 0.25 : 1e-4) ? "heavy tail" : "";
}
