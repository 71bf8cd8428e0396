"""The gallery's scripts on models: anomalies, priors, evidence, layers, missing pixels, codes."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.fixture
def one_latent():
    """A VAE of one latent and 2x3 pixels, small enough to integrate over a grid."""
    torch.manual_seed(0)
    config = pv.Config(latent_dim=1, hidden=(8,))
    vae = pv.VAE.from_config(config, event_shape=(2, 3))
    with torch.no_grad():
        vae.likelihood.network.output.weight.mul_(3)
    return pv.VAE(vae.prior, vae.likelihood, _Wide())


class _Wide(nn.Module):
    """A guide wider than the prior, so that importance weights are bounded."""

    def forward(self, x):
        return dist.Normal(torch.zeros(len(x), 1), 1.3).to_event(1)


def _quadrature(vae, x, mask):
    """Log p of the seen pixels, and the mean of all of them given these, over a grid of z."""
    z = torch.linspace(-8, 8, 4001)[:, None]
    log_prior = vae.prior().log_prob(z).double() + math.log(16 / 4000)
    with torch.no_grad():
        pixels = vae.likelihood(z[:, None]).base_dist
        log_seen = pixels.log_prob(x).where(mask, torch.zeros(())).sum((-2, -1)).double()
        weights = (log_prior[:, None] + log_seen).softmax(0)[..., None, None]
        means = (weights * pixels.mean).sum(0)
    return (log_prior[:, None] + log_seen).logsumexp(0), means


def test_auc_is_scikit_learns_and_its_error_that_of_repeats(anomaly):
    generator = torch.Generator().manual_seed(0)
    high = torch.randint(2, 9, (40,), generator=generator)  # with ties
    low = torch.randint(0, 7, (70,), generator=generator)
    labels = np.r_[np.ones(40), np.zeros(70)]
    expected = roc_auc_score(labels, np.r_[high.numpy(), low.numpy()])
    assert anomaly.auc(high, low)[0] == pytest.approx(expected)
    assert anomaly.auc(low, high)[0] == pytest.approx(1 - expected)

    pairs = []
    for _ in range(400):  # of very different numbers and spreads
        draws = 1 + 2 * torch.randn(20, generator=generator), torch.randn(200, generator=generator)
        pairs.append(anomaly.auc(*draws))
    areas, errors = np.array(pairs).T
    truth = stats.norm.cdf(1 / math.sqrt(5))
    assert abs(areas.mean() - truth) < 4 * areas.std() / math.sqrt(400)
    # The standard deviation of 400 values is known to 3.5 %.
    assert math.sqrt((errors**2).mean()) == pytest.approx(areas.std(), rel=0.14)


def test_roc_is_scikit_learns(anomaly):
    generator = np.random.default_rng(0)
    high, low = 1 + generator.normal(size=300), generator.normal(size=300)
    share = np.linspace(0, 1, 201)
    curves = anomaly.roc(high, low, share)
    assert curves.shape == (201, 201)
    assert (np.diff(curves, axis=1) >= 0).all()
    false, true, _ = roc_curve(np.r_[np.ones(300), np.zeros(300)], np.r_[high, low])
    apart = np.abs(curves[0] - np.interp(share, false, true))
    assert apart.max() < 0.03
    assert apart.mean() < 0.005
    # A bootstrap estimate of the curve's binomial error and of that of its threshold.
    middle = curves[1:, 50].std()
    assert middle > math.sqrt(curves[0, 50] * (1 - curves[0, 50]) / 300)


@pytest.mark.slow
def test_scores_of_anomaly_are_what_they_say(anomaly, digits):
    parts = {"latent_dim": 2, "hidden": (8,), "epochs": 1, "samples": 20}
    detector = anomaly.Detector(digits.train, digits.valid, **parts)
    x = digits.valid.x
    found, scores = detector.statistics(x), detector.scores(x)
    mean = (digits.train.x.sum(0) + 0.5) / (len(digits.train) + 1)
    written_out = (x * mean.log() + (1 - x) * (1 - mean).log()).sum((1, 2)).double()
    torch.testing.assert_close(scores["ratio"], written_out - found["log p(x)"], rtol=0, atol=1e-3)
    assert (found["ELBO"] < found["log p(x)"] + 0.5).all()
    away = (found["log p(x)"] - found["log p(x)"].mean()).abs()
    torch.testing.assert_close(scores["typicality"], away)
    # Of the data that made mean and covariance, the mean is the number of statistics.
    assert scores["several"].mean().item() == pytest.approx(4)


def test_other_images_are_what_they_are_called(anomaly, digits):
    x = digits.test.x
    images = anomaly.other_images("digits", x)
    for some in images.values():
        assert some.shape == x.shape
        assert ((some == 0) | (some == 1)).all()
    ink = {name: some.mean().item() for name, some in images.items()}
    assert ink["nearly blank"] == pytest.approx(1 / 64, rel=0.2)
    assert ink["faint digits"] == pytest.approx(x.mean().item() / 4, rel=0.05)
    assert ink["coin flips"] == pytest.approx(0.5, abs=0.02)
    assert ink["independent pixels"] == pytest.approx(x.mean().item(), abs=0.02)
    torch.testing.assert_close(images["inverted"] + x, torch.ones_like(x))
    torch.testing.assert_close(images["shifted by a quarter"].sum((1, 2)), x.sum((1, 2)))
    assert not torch.equal(images["turned by 90°"], x)


def test_anomaly_finds_the_failure_and_the_remedy(anomaly, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = anomaly.main(smoke=True)
    assert "coin flips" in capsys.readouterr().out
    assert (tmp_path / "anomaly-digits.png").stat().st_size > 10_000
    assert numbers["coin flips, log p(x)"] == 1
    assert numbers["coin flips, above"] == 0
    failed = "digits without noise"
    assert numbers[f"{failed}, above"] > 0.6
    assert numbers[f"{failed}, log p(x)"] < 0.4 < numbers[f"{failed}, typicality"]


def test_differences_know_both_errors(prior_study):
    """An additive model of seeds and images: the interval holds the truth 95 times in 100."""
    generator = torch.Generator().manual_seed(0)
    inside, squares = 0, []
    repeats, seeds, images = 600, 4, 50
    for _ in range(repeats):
        seed = 0.2 * torch.randn(seeds, 1, generator=generator).double()
        image = torch.randn(1, images, generator=generator).double()
        one = prior_study.Difference(1.0 + seed + image)
        low, high = one.interval
        inside += low < 1 < high
        squares.append((one.seed_error**2, one.image_error**2))
    share = inside / repeats
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)
    seed_square, image_square = np.mean(squares, axis=0)
    assert seed_square == pytest.approx(0.2**2 / seeds, rel=0.15)
    assert image_square == pytest.approx(1 / images, rel=0.05)


def test_interval_without_spread_of_images_is_students(prior_study):
    seeds = torch.tensor([0.1, 0.4, 0.2]).double()
    one = prior_study.Difference(seeds[:, None].expand(3, 10))
    expected = stats.t.interval(0.95, 2, seeds.mean(), seeds.std() / math.sqrt(3))
    assert one.interval == pytest.approx(expected)
    # Images that change places between seeds have no part of their own.
    one = prior_study.Difference(torch.tensor([[0.0, 1.0], [1.0, 0.5]]).double())
    assert one.image_error == pytest.approx(0.25 / 2)
    assert one.seed_error == pytest.approx(0.25 / 2)


def test_prior_study_is_pvs_and_goes_on_where_it_was(prior_study, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prior_study, "PRIORS", ["normal", "vamp"])
    numbers = prior_study.main(smoke=True)
    folder = tmp_path / "prior-study-digits-smoke"
    differences = []
    for seed in range(2):
        evidence = {
            name: pv.Evidence.load(folder / f"seed-{seed}" / name / "evidence.json")
            for name in ("normal", "vamp")
        }
        rows = {row.name: row.log_px for row in pv.compare(evidence).rows}
        differences.append(rows["vamp"] - rows["normal"])
    assert differences[0] != differences[1]
    assert numbers["vamp, difference"] == pytest.approx(np.mean(differences))
    expected = abs(differences[0] - differences[1]) / 2
    assert numbers["vamp, seed error"] == pytest.approx(expected)
    assert numbers["vamp, low"] < numbers["vamp, difference"] < numbers["vamp, high"]
    assert (tmp_path / "prior-study-digits.png").stat().st_size > 10_000

    written = {p: p.stat().st_mtime_ns for p in folder.rglob("checkpoint*")}
    assert written
    assert prior_study.main(smoke=True) == numbers
    assert {p: p.stat().st_mtime_ns for p in written} == written
    capsys.readouterr()


def test_log_weights_of_the_exact_posterior_are_log_px(evidence_study, linear_gaussian):
    found = evidence_study.log_weights(linear_gaussian, linear_gaussian.x, 300)
    assert found.shape == (300, len(linear_gaussian.x))
    expected = linear_gaussian.log_px.expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_ladder_is_printed_with_spread_between_repeats(evidence_study, linear_gaussian, capsys):
    model, guide, x = linear_gaussian.model, linear_gaussian.wide_guide, linear_gaussian.x
    runs = [pv.log_evidence(model, guide, x, samples=200, seed=seed) for seed in range(20)]
    numbers = evidence_study.print_ladder({"guide": runs})
    assert "guide" in capsys.readouterr().out
    values = np.array([run.mean().value for run in runs])
    assert numbers["guide"] == pytest.approx(values.mean())
    assert numbers["guide, spread"] == pytest.approx(values.std(ddof=1))
    # 20 values know a standard deviation to 16 %.
    assert numbers["guide, error"] == pytest.approx(numbers["guide, spread"], rel=0.6)
    assert numbers["guide"] == pytest.approx(
        linear_gaussian.log_px.mean().item(), abs=5 * numbers["guide, error"]
    )


def test_evidence_study_agrees_with_itself(evidence_study, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = evidence_study.main(smoke=True)
    capsys.readouterr()
    error = math.hypot(numbers["laplace, error"], numbers["unbiased, error"])
    assert abs(numbers["unbiased"] - numbers["laplace"]) < 4.5 * error + 0.01
    error = math.hypot(numbers["laplace, error"], numbers["annealed, error"])
    assert abs(numbers["annealed"] - numbers["laplace"]) < 4.5 * error + 0.01
    assert abs(numbers["gap"]) < 5 * numbers["gap, error"] + 0.01
    table = np.genfromtxt(tmp_path / "evidence-study-digits.csv", delimiter=",", names=True)
    assert len(table) == 8
    first = table["log_px"].mean()
    assert first == pytest.approx(numbers["auto"], abs=5 * numbers["auto, spread"] + 0.02)
    assert (tmp_path / "evidence-study-digits.png").stat().st_size > 10_000


def test_share_of_variance_within_rows(hierarchical):
    torch.manual_seed(0)
    rows, columns = torch.randn(50, 1, 3, 4), torch.randn(1, 50, 3, 4)
    assert hierarchical.spread(rows.expand(-1, 50, -1, -1)) == pytest.approx(0)
    assert hierarchical.spread(columns.expand(50, -1, -1, -1)) == pytest.approx(1)
    both = torch.randn(200, 1, 3, 4) + 0.5 * torch.randn(200, 40, 3, 4)
    assert hierarchical.spread(both) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("form", ["bottom-up", "top-down"])
def test_rows_hold_the_top_layer(hierarchical, form, monkeypatch):
    config = pv.Config(latent_dim=3, hidden=(8,), **hierarchical.layers(form, 2))
    model = pv.build_program(config, event_shape=(4, 5))
    assert model.form == form
    given = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda *z: given.append(z) or decode(*z))
    pictures = hierarchical.rows_of_one_top(model)
    shape = (hierarchical.ROWS, hierarchical.COLUMNS)
    assert pictures.shape == (*shape, 4, 5)
    z1, z2 = given[0]
    assert z1.shape == (*shape, 3)
    assert (z2 == z2[:, :1]).all()
    assert (z2[0, 0] != z2[1, 0]).all()
    assert (z1[:, 0] != z1[:, 1]).all()


@pytest.mark.slow
def test_hierarchical_counts_each_layer(hierarchical, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = hierarchical.main(smoke=True)
    assert "two" not in capsys.readouterr().err
    for form in ("bottom-up", "top-down"):
        gain = numbers[form] - numbers["one layer"]
        assert numbers[f"{form}, gain"] == pytest.approx(gain)
        assert 0 <= numbers[f"{form}, z1 active"] <= 12
        assert 0 <= numbers[f"{form}, z2 active"] <= 6
        assert 0 < numbers[f"{form}, within"] < 1
        assert numbers[f"{form}, gain error"] > 0
    assert (tmp_path / "hierarchical-digits.png").stat().st_size > 10_000


@pytest.mark.parametrize("share", [0.1, 0.75, 0.99])
def test_holes_take_their_share_and_leave_a_pixel(missing_pixels, share):
    x = torch.zeros(3000, 4, 5)
    mask = missing_pixels.holes(x, share, seed=1)
    assert mask.flatten(1).any(1).all()
    expected = share - share**20 / 20  # where none is left, one is given back
    error = math.sqrt(share * (1 - share) / mask.numel())
    assert abs((~mask).double().mean() - expected) < 4 * error
    assert torch.equal(mask, missing_pixels.holes(x, share, seed=1))
    assert not torch.equal(mask, missing_pixels.holes(x, share, seed=2))


def test_filled_in_and_scored_as_by_quadrature(missing_pixels, one_latent, monkeypatch):
    torch.manual_seed(1)
    x = torch.rand(12, 2, 3).round()
    mask = missing_pixels.holes(x, 0.5, seed=0)
    everything, _ = _quadrature(one_latent, x, torch.ones_like(mask))
    seen, means = _quadrature(one_latent, x, mask)
    hidden = (~mask).flatten(1).sum(1)
    keep = hidden > 0
    x, mask, hidden = x[keep], mask[keep], hidden[keep]
    monkeypatch.setattr(missing_pixels, "DRAWS", 40_000)
    found = missing_pixels.score(one_latent, x, mask, 4000)
    expected = (seen - everything)[keep] / hidden
    torch.testing.assert_close(found.nats, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(
        found.filled, torch.where(mask, x, means[keep].float()), atol=0.02, rtol=0
    )
    error = (x - found.filled).square().where(~mask, torch.zeros(())).sum((1, 2)) / hidden
    torch.testing.assert_close(found.squared, error.double(), rtol=1e-5, atol=1e-6)


def test_pixel_means_use_what_is_seen(missing_pixels):
    train = torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    seen = torch.tensor([[[True, True]], [[True, False]], [[False, True]]])
    x, mask = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[True, False]]])
    found = missing_pixels.pixel_means(train, seen, x, mask)
    mean = (1 + 0.5) / 3  # of the second pixel: seen twice, once 1
    torch.testing.assert_close(found.filled, torch.tensor([[[1.0, mean]]]))
    assert found.nats.item() == pytest.approx(-math.log(1 - mean))
    assert found.squared.item() == pytest.approx(mean**2)


def test_new_encoder_leaves_the_model_as_it_is(missing_pixels, digits):
    config = pv.Config(latent_dim=2, hidden=(8,))
    vae, other = (pv.VAE.from_config(config, event_shape=(8, 8)) for _ in range(2))
    x = digits.train.x[:200]
    mask = missing_pixels.holes(x, 0.5, seed=0)
    before = [p.clone() for p in vae.parameters()]
    renewed = missing_pixels.new_encoder(vae, other.posterior)
    start = [p.clone() for p in renewed.posterior.parameters()]
    pv.fit(pv.Masked(renewed), (x, mask), epochs=2, learning_rate=1e-2, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    moved = zip(start, renewed.posterior.parameters(), strict=True)
    assert all((a - b).abs().max() > 1e-3 for a, b in moved)


def test_missing_pixels_runs(missing_pixels, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = missing_pixels.main(smoke=True)
    assert "hidden" in capsys.readouterr().out
    gap = numbers["pixel mean, 0.5"] - numbers["trained without, 0.5"]
    assert numbers["pixel mean, 0.5, gap"] == pytest.approx(gap)
    assert 0.1 < numbers["trained with holes, 0.5"] < math.log(2)
    assert (tmp_path / "missing-pixels-digits.png").stat().st_size > 10_000


def test_few_labels_are_balanced(representation, digits):
    draws = list(representation.labelled(digits.train.y, 3))
    for rows in draws:
        assert digits.train.y[rows].bincount().tolist() == [10] * 10
        assert len(rows.unique()) == 100
    assert not torch.equal(draws[0].sort().values, draws[1].sort().values)


def test_codes_that_are_labels_are_always_right(representation, digits):
    train, test = digits.train, digits.test
    codes = tuple(nn.functional.one_hot(some.y, 10).numpy() for some in (train, test))
    found = representation.right_answers(train, test, codes, 2)
    assert len(found) == 4
    for (labels, _), right in found.items():
        assert right.shape == (1 if labels == "all" else 2, len(test))
        assert right.all()
    wrong = (codes[0], np.roll(codes[1], 1, axis=1))
    for right in representation.right_answers(train, test, wrong, 1).values():
        assert not right.any()


def test_error_of_accuracy(representation):
    torch.manual_seed(0)
    right = torch.rand(1, 400).lt(0.8).double()
    share, error = representation.estimate(right)
    assert share == pytest.approx(right.mean().item())
    assert error == pytest.approx(math.sqrt(share * (1 - share) / 399))
    # All images alike: what is left is the draws' part.
    draws = torch.tensor([0.7, 0.8, 0.9])[:, None].expand(3, 50).double()
    share, error = representation.estimate(draws)
    assert (share, error) == pytest.approx((0.8, 0.1 / math.sqrt(3)))


def test_representation_runs(representation, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = representation.main(smoke=True)
    assert "PCA" in capsys.readouterr().out
    gap = numbers["code, normal prior, linear, all"] - numbers["PCA, linear, all"]
    assert numbers["code, normal prior - PCA, linear, all"] == pytest.approx(gap)
    assert numbers["pixels, linear, all"] > 0.7
    assert (tmp_path / "representation-digits.png").stat().st_size > 10_000


def test_checks_see_the_wrong_likelihood_and_the_wrong_encoder(checks, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    numbers = checks.main(smoke=True)
    for name in ("", "encoder-"):
        for likelihood in checks.LIKELIHOODS:
            assert (tmp_path / f"checks-{name}{likelihood}.png").stat().st_size > 10_000
    assert numbers["misfits, poisson"] > numbers["misfits, negative-binomial"]
    assert numbers["log p(x), negative-binomial"] > numbers["log p(x), poisson"]
    error = math.sqrt(0.9 * 0.1 / 100)
    assert numbers["90 % interval of weighted, poisson"] == pytest.approx(0.9, abs=4 * error)


def test_counts_of_cells_are_more_dispersed_than_poissons(checks):
    """Of a gamma-mixed Poisson variable: mean m, variance m + m^2 (1 / c + spread of the rates)."""
    x = checks.cells(50_000).double()
    square = checks.SLOPES.double().square()
    mean = torch.exp(checks.RATES.double() + square / 2)
    second = torch.exp(2 * checks.RATES.double() + 2 * square) * (1 + 1 / checks.CONCENTRATION)
    variance = mean + second - mean.square()
    assert ((x.mean(0) - mean) / (variance / len(x)).sqrt()).abs().max() < 4
    torch.testing.assert_close(x.var(0), variance, rtol=0.15, atol=0)


def test_deviations_are_counted_in_those_of_the_replicates(checks):
    check = pv.check.Check("x", 7.0, torch.tensor([1.0, 3.0]).double(), 0.5)
    assert checks.deviations(check) == pytest.approx(5 / math.sqrt(2))
