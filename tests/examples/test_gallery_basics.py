"""The gallery's first scripts: information, linear model, prior sampling, reparameterization."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import kl_divergence

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.fixture(scope="module")
def gray():
    return pv.load("digits", binarize="gray").train.x.flatten(1).double()


def test_information_in_closed_form(information, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    numbers = information.main(smoke=True)
    assert (tmp_path / "information.png").stat().st_size > 10_000

    fair, biased = information.SEQUENCES
    assert numbers[f"{fair}, fair"] == numbers[f"{biased}, fair"] == pytest.approx(10)
    assert numbers[f"{biased}, biased"] == pytest.approx(-9 * math.log2(0.9) - math.log2(0.1))
    assert numbers["entropy, fair coin"] == pytest.approx(1)
    entropy = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    assert numbers["entropy, biased coin"] == pytest.approx(entropy)

    assert numbers["entropy of a letter"] == pytest.approx(1.5)
    assert numbers["code for P"] == 1.5
    assert numbers["code for Q"] == 1.75
    assert numbers["excess"] == pytest.approx(0.25)

    assert round(numbers["KL(P || Q)"], 4) == 0.0853
    assert round(numbers["KL(Q || P)"], 4) == 0.0975
    # Cut, not rounded, after four digits.
    assert math.floor(1e4 * numbers["in print, KL(P || Q)"]) == 414
    assert math.floor(1e4 * numbers["in print, KL(Q || P)"]) == 375
    assert numbers["least KL"] >= 0

    assert numbers["half sum"] == pytest.approx(numbers["KL, diagonal || N(0, I)"])
    assert numbers["half sum"] > 0
    for name in ("diagonal || N(0, I)", "full || full"):
        assert abs(numbers[f"in errors, {name}"]) < 4


@pytest.mark.parametrize("letters", [2, 3, 7, 20])
def test_code_is_a_prefix_code_between_entropy_and_one_bit_more(information, letters):
    p = dist.Dirichlet(torch.ones(letters, dtype=torch.float64)).sample()
    probabilities = {str(i): value for i, value in enumerate(p.tolist())}
    code = information.huffman(probabilities)
    assert code.keys() == probabilities.keys()
    for one, other in itertools.permutations(code.values(), 2):
        assert not other.startswith(one)
    mean = sum(probabilities[letter] * len(word) for letter, word in code.items())
    entropy = dist.Categorical(p).entropy().item() / math.log(2)
    assert entropy <= mean < entropy + 1


def test_full_covariance_kl_is_the_one_written_out(information):
    p, q = information.normals(4)["full || full"]
    inverse, shift = q.covariance_matrix.inverse(), q.mean - p.mean
    trace = (inverse @ p.covariance_matrix).trace() + shift @ inverse @ shift - 4
    expected = (trace + q.covariance_matrix.logdet() - p.covariance_matrix.logdet()) / 2
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_closed_form_is_scikit_learns_and_stationary(linear_model, gray):
    exact = linear_model.closed_form(gray)
    n = len(gray)
    pca = PCA(linear_model.LATENT_DIM).fit(gray.numpy())
    expected = torch.from_numpy(pca.get_covariance()) * (n - 1) / n
    torch.testing.assert_close(exact.marginal().covariance_matrix, expected, rtol=1e-8, atol=1e-10)

    parameters = [p.clone().requires_grad_() for p in (exact.weight, exact.mean, exact.variance)]
    log_px = linear_model.LinearModel(*parameters).marginal().log_prob(gray).mean()
    for gradient in torch.autograd.grad(log_px, parameters):
        assert gradient.abs().max() < 1e-8


def test_posterior_and_elbo_of_the_linear_model(linear_model, gray):
    """log p(x, z) - log p(z | x) is log p(x) at any z; the ELBO is what Monte Carlo says."""
    torch.manual_seed(0)
    x = gray[:20]
    # Columns that are not orthogonal, so that the posterior is not diagonal.
    weight = 0.3 * torch.randn(x.shape[1], 3, dtype=x.dtype)
    model = linear_model.LinearModel(weight, x.mean(0), torch.tensor(0.05, dtype=x.dtype))
    exact, posterior = model.marginal().log_prob(x), model.posterior(x)
    z = torch.randn(len(x), 3, dtype=x.dtype)
    joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
    torch.testing.assert_close(joint - posterior.log_prob(z), exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.elbo(x, posterior), exact.mean(), rtol=1e-10, atol=1e-10)

    full = dist.MultivariateNormal(posterior.mean + 0.1, 1.5 * posterior.covariance_matrix)
    diagonal = dist.Normal(posterior.mean, posterior.stddev).to_event(1)
    for q in (full, diagonal):
        draws = q.sample((4000,))
        log_weights = model.prior().log_prob(draws) + model.likelihood(draws).log_prob(x)
        values = (log_weights - q.log_prob(draws)).mean(1)
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - model.elbo(x, q)) < 4 * error
        assert model.elbo(x, q) < exact.mean() - 10 * error

    evidence = pv.log_evidence(model.model, model.guide, x, samples=2)
    torch.testing.assert_close(evidence.log_px, exact, rtol=1e-10, atol=1e-10)


def test_m_step_maximizes_the_elbo(linear_model, gray):
    torch.manual_seed(0)
    q = dist.MultivariateNormal(
        gray[:, 20:23] + 0.1 * torch.randn(len(gray), 3, dtype=gray.dtype),
        0.01 * torch.eye(3, dtype=gray.dtype) + 0.002,
    )
    best = linear_model.m_step(gray, q)
    # The mean is that of the data, whatever q, as at the maximum of the likelihood.
    parameters = [p.clone().requires_grad_() for p in (best.weight, best.variance)]
    model = linear_model.LinearModel(parameters[0], best.mean, parameters[1])
    for gradient in torch.autograd.grad(model.elbo(gray, q), parameters):
        assert gradient.abs().max() < 1e-8


def test_em_rises_to_the_closed_form(linear_model, gray):
    pyro.set_rng_seed(0)
    fitted, steps = linear_model.em(gray, 60)
    log_px, elbo, kl = steps.unbind(1)
    torch.testing.assert_close(elbo + kl, log_px, rtol=1e-10, atol=1e-10)
    assert (log_px.diff() >= 0).all()
    assert (elbo[1:] >= log_px[:-1]).all()  # the M step starts where the gap is closed
    exact = linear_model.closed_form(gray)
    assert log_px[-1] == pytest.approx(exact.marginal().log_prob(gray).mean().item(), abs=1e-5)
    torch.testing.assert_close(
        fitted.marginal().covariance_matrix,
        exact.marginal().covariance_matrix,
        rtol=0,
        atol=1e-3,
    )


def test_svi_of_a_linear_vae_gets_near_the_closed_form(linear_model, gray):
    train = pv.load("digits", binarize="gray").train
    vae, linear = linear_model.linear_vae(train, "full", epochs=240, learning_rate=3e-2)
    best = linear_model.closed_form(gray).marginal().log_prob(gray).mean()
    reached = linear.marginal().log_prob(gray).mean()
    assert best - 0.01 < reached <= best
    with torch.no_grad():
        q = vae.posterior(train.x)
    q = dist.MultivariateNormal(q.mean.double(), q.covariance_matrix.double())
    assert reached - 0.01 < linear.elbo(gray, q) <= reached


def test_second_moment_in_closed_form(prior_sampling, linear_gaussian):
    """N(x; m, s²)² is (4 pi s²)^(-D/2) N(x; m, s²/2), so that its mean is a normal density."""
    model, size = linear_gaussian, linear_gaussian.x.shape[1]
    covariance = model.weight @ model.weight.T + model.scale**2 / 2 * torch.eye(size).double()
    expected = dist.MultivariateNormal(model.bias, covariance).log_prob(model.x)
    expected = expected - size / 2 * math.log(4 * math.pi * model.scale**2)
    options = {"samples": 4000, "method": "laplace"}
    found = prior_sampling.second_moment(model, model.x, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_prior_sampling_falls_short_as_predicted(prior_sampling):
    numbers = [100, 1000, 20_000]
    result = prior_sampling.measure("digits", "0/1", numbers, epochs=5)
    error = result.annealed.mean().mc_error
    first = result.reference.log_px[: len(result.annealed)]
    assert abs((result.annealed.log_px - first).mean()) < 4 * error + 0.01

    target = prior_sampling.TARGET
    predicted = numbers[-1] / (1 + result.needed["prior"] * target**2)
    measured = result.runs["prior"][numbers[-1]][0].ess
    # With so many effective draws their number is known to some percent.
    assert measured.min() > 100
    torch.testing.assert_close(measured, predicted, rtol=0.4, atol=0)
    assert (measured / predicted).log().mean().abs() < 0.1
    assert (result.needed["prior"] > 5 * result.needed["fitted"]).all()
    assert result.hardest == result.needed["prior"].argmax()

    runs = [run.log_px for run in result.runs["encoder"][100]]
    mean, spread = result.estimate("encoder", 100)
    assert mean == pytest.approx(torch.stack(runs).mean().item())
    assert spread == pytest.approx(torch.stack([run.mean() for run in runs]).std().item())
    single, _ = result.estimate("encoder", 100, image=3)
    assert single == pytest.approx(torch.stack(runs)[:, 3].mean().item())


@pytest.mark.parametrize("name", ["reparameterized", "score function", "score, baseline per datum"])
@pytest.mark.parametrize("dim", [1, 4])
def test_toy_gradients_are_unbiased(reparameterization, name, dim):
    """The gradient of KL(N(m, s²) || N(0, 1)) in m is m; tolerance 4.5 standard errors."""
    torch.manual_seed(0)
    found = reparameterization.toy(reparameterization.ESTIMATORS[name], dim, 20_000)
    pyro.clear_param_store()
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - reparameterization.MEAN).abs() < 4.5 * error).all()


def test_toy_noise_in_closed_form(reparameterization):
    mean, scale, draws = reparameterization.MEAN, reparameterization.SCALE, 40_000
    torch.manual_seed(0)
    through = reparameterization.toy(reparameterization.ESTIMATORS["reparameterized"], 3, draws)
    assert through.var(0).sum().item() == pytest.approx(3 * scale**2, rel=0.03)

    # (log q - log p) times the score, squared, by Gauss-Hermite quadrature.
    noise, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    z = mean + scale * noise
    cost = -np.log(scale) - noise**2 / 2 + z**2 / 2
    single = cost * noise / scale
    assert (weights * single).sum() == pytest.approx(mean)
    expected = (weights * single**2).sum() - mean**2
    score = reparameterization.toy(reparameterization.ESTIMATORS["score function"], 1, draws)
    pyro.clear_param_store()
    squares = (score - score.mean()).square()
    assert abs(squares.mean() - expected) < 4.5 * squares.std() / math.sqrt(draws)


@pytest.mark.slow
def test_encoder_gradients_agree_but_for_their_noise(reparameterization, digits, capsys):
    torch.manual_seed(0)
    vae = reparameterization.build(digits.train, "softplus", hidden=(8,), seed=0)
    x = digits.train.x[:20]
    numbers, deviations = reparameterization.print_encoder(vae, x, 400)
    capsys.readouterr()
    torch.manual_seed(0)
    estimator = reparameterization.ESTIMATORS["reparameterized"]
    rows = torch.stack(list(estimator.gradients(vae.model, vae.guide, x, 400))) / len(x)
    pyro.clear_param_store()
    assert numbers["reparameterized"] == pytest.approx(rows.var(0).sum().item(), rel=1e-4)
    for name in reparameterization.ESTIMATORS:
        assert abs(numbers.get(f"{name}, in errors", 0.0)) < 4
        assert deviations[name].square().mean().item() == pytest.approx(numbers[name])
    assert numbers["score function"] > 50 * numbers["reparameterized"]
    assert numbers["score function"] > 5 * numbers["score, mean baseline"]
    assert numbers["score, mean baseline"] > 2 * numbers["score, baseline per datum"]
    assert vae.posterior(digits.train.x[:2]).has_rsample  # put back


@pytest.mark.parametrize("scale", ["exp", "softplus", "square"])
def test_scales_are_positive_and_start_at_one(reparameterization, digits, scale):
    vae = reparameterization.build(digits.train, scale, hidden=(8,), seed=0)
    positive, one = reparameterization.SCALES[scale]
    assert positive(torch.tensor(one)).item() == pytest.approx(1)
    with torch.no_grad():
        q = vae.posterior(digits.train.x)
        raw = vae.posterior.network(digits.train.x)[:, 1]
    assert (q.stddev > 0).all()
    torch.testing.assert_close(q.stddev, positive(raw) + 1e-5)
    assert vae.posterior.network.output.bias[-1].item() == pytest.approx(one)
