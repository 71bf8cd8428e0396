import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian
from pyro import poutine

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.mark.parametrize(("samples", "chunk"), [(1, 1), (7, 3), (10, 100), (130, 7), (65, None)])
def test_exact_posterior_has_zero_variance(linear_gaussian, samples, chunk):
    lg = linear_gaussian
    result = pv.log_evidence(lg.model, lg.guide, lg.x, samples=samples, chunk=chunk)
    torch.testing.assert_close(result.log_px, lg.log_px, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.elbo, lg.log_px, rtol=1e-10, atol=1e-10)
    if samples > 1:
        torch.testing.assert_close(result.jackknife, lg.log_px, rtol=1e-10, atol=1e-9)
        assert result.standard_error.max() < 1e-7
        torch.testing.assert_close(result.ess, torch.full_like(result.ess, samples))
    assert result.pareto_k.isnan().all()


def test_prior_as_guide_in_two_dimensions():
    lg = LinearGaussian(latent_dim=2, event_dim=2, n=50, scale=1.5, seed=1)
    result = pv.log_evidence(lg.model, lg.prior_guide, lg.x, samples=20_000, seed=3)
    deviation = (result.log_px - lg.log_px) / result.standard_error
    # 50 standard normal deviations: P(any beyond 4.5) < 4e-4, and their rms is 1 +- 0.1.
    assert deviation.abs().max() < 4.5
    assert 0.6 < deviation.square().mean().sqrt() < 1.4


def test_estimate_is_biased_low_by_half_the_squared_error():
    lg = LinearGaussian(n=4000, seed=2)
    result = pv.log_evidence(lg.model, lg.wide_guide, lg.x, samples=10, seed=0)
    bias = result.log_px - lg.log_px
    error = bias.std().item() / math.sqrt(len(bias))
    # -cv^2 / 2K, with E w^2 = (s^2 / sqrt(2 s^2 - 1))^d for a normal widened by s.
    cv2 = (1.3**2 / math.sqrt(2 * 1.3**2 - 1)) ** 3 - 1
    assert bias.mean().item() == pytest.approx(-cv2 / 20, abs=4 * error)
    assert bias.mean() < -4 * error
    # The jackknife takes it away, to second order.
    corrected = result.jackknife - lg.log_px
    assert corrected.mean().abs() < 4 * corrected.std() / math.sqrt(len(bias))


def test_coverage_of_the_95_percent_interval():
    # 2,000 replicates: the true coverage 0.95 shows as 0.95 +- 0.005; 4 standard errors.
    one = LinearGaussian(n=1, seed=5)
    x = one.x.expand(2000, -1)
    result = pv.log_evidence(one.model, one.wide_guide, x, samples=500, seed=0)
    inside = (result.log_px - one.log_px).abs() < 1.96 * result.standard_error
    assert 0.93 < inside.double().mean() < 0.97


# Programs of users: each is the linear Gaussian written another way, with its exact posterior.


class _Ways(LinearGaussian):
    def renamed(self):
        def model(batch):
            with pyro.plate("people", batch.shape[0]):
                ability = pyro.sample("ability", self.prior())
                pyro.sample("answers", self.likelihood(ability), obs=batch)

        def guide(batch):
            with pyro.plate("people", batch.shape[0]):
                pyro.sample("ability", self.posterior(batch))

        return model, guide

    def scaled(self):
        return poutine.scale(self.model, 0.1), poutine.scale(self.guide, 17.0)

    def subsample_given(self):
        def model(x):
            with pyro.plate("data", 60_000, subsample=x):
                pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x)

        def guide(x):
            with pyro.plate("data", 60_000, subsample=x):
                pyro.sample("z", self.posterior(x))

        return model, guide

    def subsample_size_of_batch(self):
        def model(x):
            with pyro.plate("data", 60_000, subsample_size=len(x)):
                pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x)

        def guide(x):
            with pyro.plate("data", 60_000, subsample_size=len(x)):
                pyro.sample("z", self.posterior(x))

        return model, guide

    def subsample_indexed(self):
        def model(x):
            with pyro.plate("data", len(x), subsample_size=4) as index:
                pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x[index])

        def guide(x):
            with pyro.plate("data", len(x), subsample_size=4) as index:
                pyro.sample("z", self.posterior(x[index]))

        return model, guide

    def subsample_of_constant_size(self):
        def model(x):
            with pyro.plate("data", 60_000, subsample_size=10):
                pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x)

        def guide(x):
            with pyro.plate("data", 60_000, subsample_size=10):
                pyro.sample("z", self.posterior(x))

        return model, guide

    def two_latents(self):
        """z split in its first value and the rest; the guide samples the rest given the first."""

        def model(x):
            with pyro.plate("data", len(x)):
                zero = torch.zeros(self.latent_dim, dtype=torch.float64)
                first = pyro.sample("first", dist.Normal(zero[0], 1.0))
                rest = pyro.sample("rest", dist.Normal(zero[1:], 1.0).to_event(1))
                z = torch.cat([first.unsqueeze(-1).expand_as(rest[..., :1]), rest], -1)
                pyro.sample("x", self.likelihood(z), obs=x)

        def guide(x):
            mean = self.posterior(x).loc
            c = self.covariance
            with pyro.plate("data", len(x)):
                first = pyro.sample("first", dist.Normal(mean[:, 0], c[0, 0].sqrt()))
                slope = c[1:, 0] / c[0, 0]
                rest_mean = mean[:, 1:] + (first - mean[:, 0]).unsqueeze(-1) * slope
                rest_cov = c[1:, 1:] - torch.outer(c[1:, 0], c[1:, 0]) / c[0, 0]
                pyro.sample("rest", dist.MultivariateNormal(rest_mean, rest_cov))

        return model, guide

    def inner_plate_right(self):
        """Pixels in a plate right of the data plate."""

        def model(x):
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", self.prior())  # (..., n, 1, d)
                loc = (z @ self.weight.T + self.bias).squeeze(-2)
                with pyro.plate("pixels", x.shape[1], dim=-1):
                    pyro.sample("x", dist.Normal(loc, self.scale), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-2):
                posterior = self.posterior(x.unsqueeze(-2))
                pyro.sample("z", posterior)

        return model, guide

    def inner_plate_left(self):
        """Pixels in a plate that Pyro puts left of the data plate."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.prior())  # (..., [1,] n, d)
                z = z if z.dim() < 3 else z.squeeze(-3)
                loc = (z @ self.weight.T + self.bias).transpose(-1, -2)
                with pyro.plate("pixels", x.shape[1]):
                    pyro.sample("x", dist.Normal(loc, self.scale), obs=x.T)

        return model, self.guide

    def flattens_samples(self):
        """A decoder that takes matrices only, such as one of convolutions."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.prior())
                loc = z.reshape(-1, self.latent_dim) @ self.weight.T + self.bias
                pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)

        return model, self.guide

    def batch_norm_like(self):
        """A guide whose network wants exactly two dimensions."""

        def guide(x):
            if x.dim() != 2:
                raise RuntimeError("expected two dimensions")
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.posterior(x))
                if z.dim() != 2:
                    raise RuntimeError("expected two dimensions")

        return self.model, guide

    def masked(self):
        """A factor and a deterministic site beside, and a mask that hides nothing."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.prior())
                pyro.deterministic("norm", z.norm(dim=-1))
                pyro.factor("nothing", torch.zeros(len(x)).double())
                with poutine.mask(mask=torch.ones(len(x)).bool()):
                    pyro.sample("x", self.likelihood(z), obs=x)

        return model, self.guide

    def auxiliary(self):
        """The guide draws an auxiliary variable and passes it on, as Pyro's AutoGuides do."""

        def guide(x):
            with pyro.plate("data", len(x)):
                aux = pyro.sample("aux", self.posterior(x), infer={"is_auxiliary": True})
                pyro.sample("z", dist.Delta(aux, event_dim=1))

        return self.model, guide

    def arguments(self):
        def model(x, offset):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.prior())
                loc = z @ self.weight.T + self.bias + offset
                pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)

        def guide(x, offset):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posterior(x - offset))

        return model, guide


_WAYS = [name for name in vars(_Ways) if not name.startswith("_")]


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize(("samples", "chunk"), [(1, None), (70, 9)])
def test_any_program_of_a_user_is_exact(way, samples, chunk):
    ways = _Ways(latent_dim=3, event_dim=4, n=67, seed=4)
    model, guide = getattr(ways, way)()
    x = ways.x
    if way == "arguments":
        offset = torch.arange(67.0).double().reshape(-1, 1)
        x = (x + offset, offset)
    result = pv.log_evidence(model, guide, x, samples=samples, chunk=chunk)
    torch.testing.assert_close(result.log_px, ways.log_px, rtol=1e-10, atol=1e-10)


def test_mask_counts():
    """Hiding two of four values leaves the evidence of the others."""
    lg = LinearGaussian(latent_dim=2, event_dim=4, n=30, seed=6)
    half = LinearGaussian(latent_dim=2, event_dim=4, n=30, seed=6)
    half.weight, half.bias, half.x = lg.weight[:2], lg.bias[:2], lg.x[:, :2]
    eye = torch.eye(2, dtype=torch.float64)
    half.covariance = torch.linalg.inv(eye + half.weight.T @ half.weight / lg.scale**2)
    marginal = half.weight @ half.weight.T + lg.scale**2 * eye
    exact = torch.distributions.MultivariateNormal(half.bias, marginal).log_prob(half.x)
    observed = torch.tensor([True, True, False, False])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", lg.prior())
            loc = z @ lg.weight.T + lg.bias
            pyro.sample("x", dist.Normal(loc, lg.scale).mask(observed).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", half.posterior(x[:, :2]))

    result = pv.log_evidence(model, guide, lg.x, samples=3)
    torch.testing.assert_close(result.log_px, exact, rtol=1e-10, atol=1e-10)


def test_result_does_not_depend_on_chunk(linear_gaussian):
    lg = LinearGaussian(n=150, seed=7)
    results = [
        pv.log_evidence(lg.model, lg.wide_guide, lg.x, samples=200, chunk=chunk).log_px
        for chunk in (1, 13, 64, 1000)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-12)
    again = pv.log_evidence(lg.model, lg.wide_guide, lg.x, samples=200, seed=1).log_px
    assert not torch.equal(again, results[0])


def test_blocks_of_data_have_noise_of_their_own():
    one = LinearGaussian(n=1, seed=5)
    x = one.x.expand(200, -1)
    result = pv.log_evidence(one.model, one.wide_guide, x, samples=20)
    assert len(result.log_px.unique()) == 200


def test_accumulation_is_in_float64():
    """float32 densities of sites are added in float64: small terms survive beside large ones."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)
            pyro.factor("large", torch.full((len(x),), 1e6))
            pyro.factor("small", torch.full((len(x),), 0.01))
            pyro.factor("back", torch.full((len(x),), -1e6))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] / 2, 0.5**0.5).to_event(1))

    x = torch.randn(5)
    result = pv.log_evidence(model, guide, x, samples=50)
    exact = torch.distributions.Normal(0.0, 2.0**0.5).log_prob(x).double() + 0.01
    torch.testing.assert_close(result.log_px, exact, rtol=0, atol=1e-4)


def test_caller_is_left_alone(digits):
    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
    vae.train()
    state = torch.get_rng_state()
    result = pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], samples=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    assert all(module.training for module in vae.modules())
    assert not result.log_px.requires_grad
    assert len(pyro.get_param_store()) == 0
    assert all(p.grad is None for p in vae.parameters())


def test_dropout_is_off(digits):
    class Noisy(pv.networks.MLP):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.9, self.training)

    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
    clean = pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], samples=20).log_px
    network = vae.likelihood.network
    noisy = Noisy((2,), (8, 8), hidden=(8,))
    noisy.load_state_dict(network.state_dict())
    vae.likelihood.network = noisy
    vae.train()
    again = pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], samples=20).log_px
    assert torch.equal(again, clean)


def test_memory_is_bounded_by_the_chunk_not_by_the_samples():
    lg = LinearGaussian(latent_dim=2, event_dim=2, n=2, seed=8)
    peaks = []
    for samples in (200, 5_000):
        sizes = []

        def model(x, sizes=sizes):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", lg.prior())
                sizes.append(z.numel())
                pyro.sample("x", lg.likelihood(z), obs=x)

        pv.log_evidence(model, lg.wide_guide, lg.x, samples=samples, chunk=16)
        peaks.append(max(sizes))
    assert peaks[0] == peaks[1] == 16 * 2 * 2


class TestErrors:
    def test_samples(self, linear_gaussian):
        lg = linear_gaussian
        with pytest.raises(ValueError, match="samples must be at least 1, a whole number; got 0"):
            pv.log_evidence(lg.model, lg.guide, lg.x, samples=0)
        with pytest.raises(ValueError, match="chunk must be at least 1"):
            pv.log_evidence(lg.model, lg.guide, lg.x, chunk=0)

    def test_data(self, linear_gaussian):
        lg = linear_gaussian
        with pytest.raises(ValueError, match="empty"):
            pv.log_evidence(lg.model, lg.guide, lg.x[:0])
        bad = lg.x.clone()
        bad[3, 1] = math.nan
        with pytest.raises(ValueError, match=r"NaN or infinite values \(first in datum 3\)"):
            pv.log_evidence(lg.model, lg.guide, bad)
        with pytest.raises(TypeError, match="torch tensor"):
            pv.log_evidence(lg.model, lg.guide, [1.0])

    def test_missing_latent(self, linear_gaussian):
        lg = linear_gaussian

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("other", lg.posterior(x))

        with pytest.raises(ValueError, match=r"latent site 'z' of the model is missing"):
            pv.log_evidence(lg.model, guide, lg.x)

    def test_superfluous_site(self, linear_gaussian):
        lg = linear_gaussian

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", lg.posterior(x))
                pyro.sample("extra", dist.Normal(0.0, 1.0))

        with pytest.raises(ValueError, match="site 'extra' of the guide is not in the model"):
            pv.log_evidence(lg.model, guide, lg.x)

    def test_two_outermost_plates(self, linear_gaussian):
        lg = linear_gaussian

        def model(x):
            lg.model(x)
            with pyro.plate("again", len(x)):
                pyro.sample("y", dist.Normal(0.0, 1.0), obs=x[:, 0])

        with pytest.raises(ValueError, match="two outermost plates, 'data' and 'again'"):
            pv.log_evidence(model, lg.guide, lg.x)

    def test_no_observation(self, linear_gaussian):
        lg = linear_gaussian

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", lg.prior())

        with pytest.raises(ValueError, match="no observed site"):
            pv.log_evidence(model, lg.guide, lg.x)

    @pytest.mark.parametrize("event_dim", [3, 5])  # 3 is also the size of the pilot batch
    def test_event_dimension_forgotten(self, event_dim):
        lg = LinearGaussian(event_dim=event_dim, latent_dim=2)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", lg.prior())
                pyro.sample("x", lg.likelihood(z).base_dist, obs=x)

        with pytest.raises(ValueError, match=r"to_event\(\)"):
            pv.log_evidence(model, lg.guide, lg.x)

    def test_inner_subsample(self, linear_gaussian):
        lg = linear_gaussian

        def model(x):
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", lg.prior())
                loc = (z @ lg.weight.T + lg.bias).squeeze(-2)
                with pyro.plate("pixels", 5, subsample_size=4, dim=-1) as index:
                    pyro.sample("x", dist.Normal(loc[..., index], 1.0), obs=x[:, index])

        def guide(x):
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("z", lg.posterior(x.unsqueeze(-2)))

        with pytest.raises(ValueError, match="'pixels' of the model takes 4 of 5 items"):
            pv.log_evidence(model, guide, lg.x)

    def test_python_loop_plate(self, linear_gaussian):
        lg = linear_gaussian

        def model(x):
            for i in pyro.plate("data", len(x)):
                z = pyro.sample(f"z{i}", lg.prior())
                pyro.sample(f"x{i}", lg.likelihood(z), obs=x[i])

        def guide(x):
            for i in pyro.plate("data", len(x)):
                pyro.sample(f"z{i}", lg.posterior(x[i]))

        with pytest.raises(ValueError, match="Python loop"):
            pv.log_evidence(model, guide, lg.x)

    def test_nan_density_names_site_and_datum(self):
        lg = LinearGaussian(n=100)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", lg.prior())
                scale = torch.where(x[:, :1] == lg.x[90, 0], math.nan, lg.scale)
                loc = z @ lg.weight.T + lg.bias
                pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

        with pytest.raises(ValueError, match=r"site 'x' of the model .* datum 90"):
            pv.log_evidence(model, lg.guide, lg.x)

    def test_gray_pixels_under_bernoulli(self, digits):
        vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
        gray = pv.load("digits", binarize="none").test
        with pytest.raises(ValueError, match=r"Bernoulli.*binarization"):
            pv.log_evidence(vae.model, vae.guide, gray)

    def test_wrong_event_shape(self):
        vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
        with pytest.raises(ValueError, match=r"shape \(\.\.\., 8, 8\); got \(3, 28, 28\)"):
            pv.log_evidence(vae.model, vae.guide, torch.zeros(5, 28, 28))


def test_warning_names_the_data(linear_gaussian):
    lg = LinearGaussian(latent_dim=3, event_dim=5, n=6, scale=0.02)
    with pytest.warns(pv.UnreliableEvidence, match=r"6 of 6 data \(0, 1, 2.*k̂ is too high"):
        result = pv.log_evidence(lg.model, lg.prior_guide, lg.x, samples=1000)
    assert result.share_unreliable() == 1


class TestDensities:
    """p(x, z) / q(z|x) must be a ratio of densities over one space."""

    def test_random_latent_beside_an_auxiliary_site(self, linear_gaussian):
        lg = linear_gaussian

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("a", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
                pyro.sample("z", lg.posterior(x))

        with pytest.raises(ValueError, match="'z' is random beside its auxiliary sites"):
            pv.log_evidence(lg.model, guide, lg.x)

    def test_point_estimate_as_guide(self, linear_gaussian):
        lg = linear_gaussian

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Delta(lg.posterior(x).loc, event_dim=1))

        with pytest.raises(ValueError, match="'z' is a Delta"):
            pv.log_evidence(lg.model, guide, lg.x)

    def test_event_shapes(self, linear_gaussian):
        lg = linear_gaussian

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))

        with pytest.raises(ValueError, match=r"event shape \(1,\) in the guide and \(3,\)"):
            pv.log_evidence(lg.model, guide, lg.x)

    def test_draws_outside_the_support_have_weight_zero(self):
        """A normal guide of an exponential latent: right, by quadrature, within 4.5 errors."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Exponential(1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.5, 1.5))

        x = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
        z = (torch.arange(200_000, dtype=torch.float64) + 0.5) * 1e-4
        normal = torch.distributions.Normal(z, 1.0)
        exact = torch.stack([(normal.log_prob(v) - z).logsumexp(0) for v in x]) + math.log(1e-4)
        result = pv.log_evidence(model, guide, x, samples=20_000)
        assert ((result.log_px - exact) / result.standard_error).abs().max() < 4.5

    def test_indices_of_a_larger_plate(self, linear_gaussian):
        lg = linear_gaussian
        elsewhere = torch.arange(100.0).double()

        def model(x):
            with pyro.plate("data", 100, subsample_size=len(x)) as index:
                z = pyro.sample("z", lg.prior())
                loc = z @ lg.weight.T + lg.bias + elsewhere[index].unsqueeze(-1)
                pyro.sample("x", dist.Normal(loc, lg.scale).to_event(1), obs=x)

        with pytest.raises(ValueError, match="'x' depends on the indices of plate 'data'"):
            pv.log_evidence(model, lg.guide, lg.x)

    def test_transformed_observation_outside_the_support(self):
        """Every block is checked, also where the observed value is a function of x."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                logits = z.unsqueeze(-1).expand(*z.shape, 4)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.reshape(-1, 4))

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))

        x = torch.zeros(200, 2, 2)
        x[150] = -3
        with pytest.raises(ValueError, match="site 'x' is Bernoulli, and a datum holds values"):
            pv.log_evidence(model, guide, x, samples=10)


def test_modules_behind_closures_are_in_eval_mode(linear_gaussian):
    lg = linear_gaussian
    noisy = torch.nn.Dropout(0.5)

    def guide(x):
        with pyro.plate("data", len(x)):
            noisy(torch.ones(3))
            pyro.sample(
                "z", dist.Normal(lg.posterior(x).loc * noisy(torch.ones(1)), 1.0).to_event(1)
            )

    state = torch.get_rng_state()
    results = [pv.log_evidence(lg.model, guide, lg.x, samples=20).log_px for _ in range(2)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert noisy.training


def test_type_of_the_data_is_named():
    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
    with pytest.raises(ValueError, match=r"data are float64, .* float32; convert .*torch.float32"):
        pv.log_evidence(vae.model, vae.guide, torch.zeros(3, 8, 8).double())


def test_arguments_are_checked(linear_gaussian):
    lg = linear_gaussian
    with pytest.raises(ValueError, match=r"samples must be .* a whole number; got 1000\.0"):
        pv.log_evidence(lg.model, lg.guide, lg.x, samples=1e3)
    with pytest.raises(ValueError, match="argument 1 has 5 rows, x 11"):
        pv.log_evidence(lg.model, lg.guide, (lg.x, lg.x[:5]))
    with pytest.raises(TypeError, match="tuple of 2 arguments, but the programs take others"):
        pv.log_evidence(lg.model, lg.guide, (lg.x, None))


def test_one_weight_for_all_is_unreliable_also_where_k_is_undefined():
    lg = LinearGaussian(latent_dim=6, event_dim=8, n=10, scale=0.01)
    with pytest.warns(pv.UnreliableEvidence, match="10 of 10"):
        result = pv.log_evidence(lg.model, lg.prior_guide, lg.x, samples=20)
    assert result.pareto_k.isnan().all()
