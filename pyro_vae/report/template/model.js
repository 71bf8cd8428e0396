// A model of the page: decode, encode, and log p(x) by importance sampling.

class Model {
  constructor(content, shape) {
    Object.assign(this, content);
    this.values = unpack(content.numbers);
    this.size = shape.reduce((a, b) => a * b, 1);
    this.points = take(this.values, this.codes);
    if (!this.live) return;
    this.weights = unpack(this.live.weights);
    this.prior = priorOf(this.live.prior, this.values);
    this.likelihood = likelihoodOf(this.live.likelihood, this.values);
  }

  column(reference) {
    return take(this.values, reference);
  }

  outputs(z) {
    const values = network(this.live.decoder, this.weights, z);
    return { values, length: values.length, rows: z.length / this.latents };
  }

  // Means of p(x|z) of rows of z, one array for each.
  decode(z) {
    const output = this.outputs(z);
    return Array.from({ length: output.rows }, (_, row) => this.likelihood.mean(output, row));
  }

  encode(x) {
    const output = network(this.live.encoder, this.weights, x);
    return posteriorOf(this.live.posterior, output, this.latents);
  }

  logLikelihood(x, z) {
    return this.likelihood.logDensity(x, this.outputs(z), 0);
  }

  // Log weights of so many draws of q(z|x), and the draws.
  draw(x, posterior, normal, number) {
    const noise = Float64Array.from({ length: number * this.latents }, normal);
    const z = new Float64Array(noise.length), logWeights = new Float64Array(number);
    for (let row = 0; row < number; row++) posterior.place(noise, row, z);
    const output = this.outputs(z);
    for (let row = 0; row < number; row++)
      logWeights[row] =
        this.likelihood.logDensity(x, output, row) +
        this.prior(z, row) -
        posterior.logDensityOfNoise(noise, row);
    return { z, logWeights };
  }

  estimate(x, samples, seed) {
    const { logWeights } = this.draw(x, this.encode(x), normals(seed), samples);
    return diagnose(logWeights);
  }

  // How far the page is from PyTorch at a point that PyTorch computed, in nats.
  check(x) {
    const { z, log_likelihood, log_prior, log_posterior } = this.live.check;
    return Math.max(
      Math.abs(this.logLikelihood(x, z) - log_likelihood),
      Math.abs(this.prior(z, 0) - log_prior),
      Math.abs(this.encode(x).logDensity(z) - log_posterior),
    );
  }
}
