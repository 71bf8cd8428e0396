import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae import models
from pyro_vae.models import (
    Classifier,
    ConditionalVAE,
    HierarchicalVAE,
    LabelPrior,
    SemiSupervisedVAE,
    one_hot,
    partially_labelled,
)
from pyro_vae.objectives.enumeration import EnumeratedELBO
from pyro_vae.programs import Masked

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


class Gaussian:
    """A joint normal of named blocks, each linear in those before it, with all its conditionals."""

    def __init__(self, edges, n=7, seed=0, **dims):
        generator = torch.Generator().manual_seed(seed)
        double = {"generator": generator, "dtype": torch.float64}
        self.places, start = {}, 0
        for name, dim in dims.items():
            self.places[name] = slice(start, start := start + dim)
        weight = torch.zeros(start, start, dtype=torch.float64)
        for child, parents in edges.items():
            for parent in parents:
                shape = (dims[child], dims[parent])
                weight[self.places[child], self.places[parent]] = torch.randn(shape, **double)
        solve = torch.linalg.inv(torch.eye(start, dtype=torch.float64) - weight)
        noise = 0.5 + torch.rand(start, **double)
        self.covariance = solve @ noise.square().diag() @ solve.T
        self.mean = torch.randn(start, **double)
        draws = dist.MultivariateNormal(self.mean, self.covariance)
        torch.manual_seed(seed)
        joint = draws.sample((n,))
        self.values = {name: joint[:, place] for name, place in self.places.items()}

    def _index(self, *names):
        return torch.cat([torch.arange(10**3)[self.places[name]] for name in names])

    def part(self, target, *given):
        """The module whose call on values of ``given`` returns p(target | given)."""
        return Conditional(self, self._index(target), [self._index(name) for name in given])


class Conditional(nn.Module):
    def __init__(self, joint, target, given):
        super().__init__()
        index = torch.cat(given) if given else torch.empty(0, dtype=torch.long)
        cross = joint.covariance[target][:, index]
        self.gain = torch.linalg.solve(joint.covariance[index][:, index], cross.T).T
        covariance = joint.covariance[target][:, target] - self.gain @ cross.T
        self.covariance = (covariance + covariance.T) / 2
        self.target_mean, self.given_mean = joint.mean[target], joint.mean[index]
        self.number = len(given)

    def forward(self, *given):
        assert len(given) == self.number
        mean = self.target_mean
        if given:
            leading = torch.broadcast_shapes(*(value.shape[:-1] for value in given))
            joined = torch.cat([value.expand(*leading, -1) for value in given], -1)
            mean = mean + (joined - self.given_mean) @ self.gain.T
        return dist.MultivariateNormal(mean, self.covariance)


CHAIN = {"z1": ["z2"], "x": ["z1"]}
FULL = {"z1": ["z2"], "x": ["z1", "z2"]}


def hierarchical(form):
    joint = Gaussian(CHAIN if form == "bottom-up" else FULL, z2=2, z1=3, x=4)
    below = ("z1",) if form == "bottom-up" else ("z1", "z2")
    vae = HierarchicalVAE(
        joint.part("z2"),
        joint.part("z1", "z2"),
        joint.part("x", *below),
        joint.part("z1", "x") if form == "bottom-up" else joint.part("z1", "x", "z2"),
        joint.part("z2", "z1") if form == "bottom-up" else joint.part("z2", "x"),
        form=form,
    )
    return joint, vae


SAMPLES = pytest.mark.parametrize(("samples", "chunk"), [(1, None), (70, 9)])
FORMS = pytest.mark.parametrize("form", ["bottom-up", "top-down"])


@FORMS
@SAMPLES
def test_hierarchical_with_exact_posterior_has_zero_variance(form, samples, chunk):
    joint, vae = hierarchical(form)
    x = joint.values["x"]
    result = pv.log_evidence(vae.model, vae.guide, x, samples=samples, chunk=chunk)
    exact = joint.part("x")().log_prob(x)
    torch.testing.assert_close(result.log_px, exact, rtol=1e-10, atol=1e-10)


@FORMS
def test_hierarchical_samples_follow_the_model(form):
    """Mean and covariance of draws within 5 of their standard errors."""
    joint, vae = hierarchical(form)
    n = 40_000
    x = vae.sample(n, seed=0)
    exact = joint.part("x")()
    spread = exact.covariance_matrix.diagonal()
    assert ((x.mean(0) - exact.mean).abs() < 5 * (spread / n).sqrt()).all()
    error = ((torch.outer(spread, spread) + exact.covariance_matrix**2) / n).sqrt()
    assert ((torch.cov(x.T) - exact.covariance_matrix).abs() < 5 * error).all()


@FORMS
def test_hierarchical_encodes_and_decodes_by_means(form):
    joint, vae = hierarchical(form)
    x = joint.values["x"]
    z1, z2 = vae.encode(x)
    torch.testing.assert_close(z1, joint.part("z1", "x")(x).mean)  # means of normals are linear
    torch.testing.assert_close(z2, joint.part("z2", "x")(x).mean)
    expected = joint.part("x", *(("z1",) if form == "bottom-up" else ("z1", "z2")))
    mean = expected(z1).mean if form == "bottom-up" else expected(z1, z2).mean
    torch.testing.assert_close(vae.decode(z1, z2), mean)
    torch.testing.assert_close(vae.reconstruct(x), mean)


def test_networks_of_burda():
    """The two-layer network of the paper: 784-200-200-100-100-100-50 and back."""
    config = pv.Config(latent_dim=100, hidden=(200, 200))
    vae = HierarchicalVAE.from_config(config, event_shape=(784,), top_dim=50, top_hidden=(100, 100))
    widths = {
        name: [layer.in_features for layer in part.modules() if isinstance(layer, nn.Linear)]
        for name, part in vae.named_children()
    }
    assert widths["posterior1"] == [784, 200, 200]
    assert widths["posterior2"] == [100, 100, 100]
    assert widths["conditional"] == [50, 100, 100]
    assert widths["likelihood"] == [100, 200, 200]
    assert vae.prior().event_shape == (50,)


def test_default_widths_of_the_upper_layers():
    """Half of those below, and the decoder's in reverse."""
    config = pv.Config(latent_dim=6, hidden=(20, 10))
    vae = HierarchicalVAE.from_config(config, event_shape=(9,))
    shapes = {
        name: [layer.in_features for layer in part.modules() if isinstance(layer, nn.Linear)]
        for name, part in vae.named_children()
    }
    assert shapes["posterior1"] == [9, 20, 10]
    assert shapes["posterior2"] == [6, 10, 5]
    assert shapes["conditional"] == [3, 5, 10]
    assert shapes["likelihood"] == [6, 10, 20]


def conditional(prior_sees_condition):
    edges = {"x": ["z", "c"], **({"z": ["c"]} if prior_sees_condition else {})}
    joint = Gaussian(edges, c=2, z=3, x=4, seed=1)
    if prior_sees_condition:
        prior = joint.part("z", "c")
    else:

        class Prior(nn.Module):
            def forward(self):
                return joint.part("z")()

        prior = Prior()
    return joint, ConditionalVAE(prior, joint.part("x", "z", "c"), joint.part("z", "x", "c"))


@pytest.mark.parametrize("prior_sees_condition", [False, True])
@SAMPLES
def test_conditional_with_exact_posterior_has_zero_variance(prior_sees_condition, samples, chunk):
    joint, vae = conditional(prior_sees_condition)
    assert vae.prior_sees_condition == prior_sees_condition
    x, c = joint.values["x"], joint.values["c"]
    result = pv.log_evidence(vae.model, vae.guide, (x, c), samples=samples, chunk=chunk)
    exact = joint.part("x", "c")(c).log_prob(x)
    torch.testing.assert_close(result.log_px, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prior_sees_condition", [False, True])
def test_conditional_samples_follow_the_model(prior_sees_condition):
    """Mean of draws at one condition, within 5 standard errors."""
    joint, vae = conditional(prior_sees_condition)
    n = 20_000
    c = joint.values["c"][:1]
    x = vae.sample(c.expand(n, -1), seed=0)
    exact = joint.part("x", "c")(c)
    spread = exact.covariance_matrix.squeeze(0).diagonal()
    assert ((x.mean(0) - exact.mean).abs() < 5 * (spread / n).sqrt()).all()
    assert ((x.var(0) / spread - 1).abs() < 5 * (2 / n) ** 0.5).all()


def test_conditional_encodes_and_decodes():
    joint, vae = conditional(True)
    x, c = joint.values["x"], joint.values["c"]
    z = vae.encode(x, c)
    torch.testing.assert_close(z, joint.part("z", "x", "c")(x, c).mean)
    torch.testing.assert_close(vae.reconstruct(x, c), joint.part("x", "z", "c")(z, c).mean)


class Labelled:
    """p(y) and, given y, a linear-Gaussian model: everything is known, q(y|x) too."""

    def __init__(self):
        self.parts = [Gaussian({"x": ["z"]}, z=2, x=3, seed=seed) for seed in range(3)]
        self.y = torch.tensor([0, 1, 2, 0, 1, 2, 2])
        self.x = torch.stack([self.parts[y].values["x"][n] for n, y in enumerate(self.y.tolist())])
        self.log_py = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
        per_label = [part.part("x")().log_prob(self.x) for part in self.parts]
        self.log_joint = torch.stack(per_label, -1) + self.log_py
        self.log_px = self.log_joint.logsumexp(-1)

    def program(self):
        labelled = self

        class Prior(nn.Module):
            def forward(self):
                return dist.Categorical(logits=labelled.log_py)

        class Standard(nn.Module):
            """Each label has its own p(z); the model's common one is N(0, I), undone below."""

            def forward(self):
                return dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)

        class Likelihood(nn.Module):
            def forward(self, u, y):
                z = labelled.standardized(u, y)
                means = torch.stack([p.part("x", "z")(z).mean for p in labelled.parts], -2)
                covariances = torch.stack([p.part("x", "z").covariance for p in labelled.parts])
                mean = (y.unsqueeze(-1) * means).sum(-2)
                return dist.MultivariateNormal(
                    mean, torch.einsum("...c,cij->...ij", y, covariances)
                )

        class Posterior(nn.Module):
            def forward(self, x, y):
                means, covariances = [], []
                for p in labelled.parts:
                    q = p.part("z", "x")(x)
                    root = torch.linalg.cholesky(p.part("z").covariance)
                    inverse = torch.linalg.inv(root)
                    means.append((q.mean - p.part("z").target_mean) @ inverse.T)
                    covariances.append(inverse @ p.part("z", "x").covariance @ inverse.T)
                mean = (y.unsqueeze(-1) * torch.stack(means, -2)).sum(-2)
                covariance = torch.einsum("...c,cij->...ij", y, torch.stack(covariances))
                return dist.MultivariateNormal(mean, covariance)

        class Exact(nn.Module):
            def forward(self, x):
                log_p = torch.stack([p.part("x")().log_prob(x) for p in labelled.parts], -1)
                return dist.Categorical(logits=log_p + labelled.log_py)

        return SemiSupervisedVAE(Prior(), Standard(), Likelihood(), Posterior(), Exact(), classes=3)

    def standardized(self, u, y):
        shifted = []
        for p in self.parts:
            root = torch.linalg.cholesky(p.part("z").covariance)
            shifted.append(u @ root.T + p.part("z").target_mean)
        return (y.unsqueeze(-1) * torch.stack(shifted, -2)).sum(-2)


@pytest.fixture(scope="module")
def labelled():
    return Labelled()


@SAMPLES
def test_semi_supervised_evidence_against_enumeration(labelled, samples, chunk):
    """log p(x) of data without label, log p(x, y) of those with one, both without variance.

    The guide is exact in both cases, so each weight is the number that is estimated; and the
    classification term of training is in none.
    """
    program = labelled.program()
    y = labelled.y.clone()
    y[::2] = -1
    result = pv.log_evidence(
        program.model, program.guide, (labelled.x, y), samples=samples, chunk=chunk
    )
    own = labelled.log_joint.gather(1, labelled.y[:, None]).squeeze(1)
    exact = torch.where(y < 0, labelled.log_px, own)
    torch.testing.assert_close(result.log_px, exact, rtol=1e-9, atol=1e-9)
    assert program.training  # as it was


def test_enumerated_elbo_of_an_exact_guide_is_the_evidence(labelled):
    program = labelled.program().eval()
    unknown = torch.full_like(labelled.y, -1)
    _, elbo = EnumeratedELBO().terms(program.model, program.guide, labelled.x, unknown)
    torch.testing.assert_close(elbo, labelled.log_px.sum(), rtol=1e-9, atol=1e-9)
    _, elbo = EnumeratedELBO().terms(program.model, program.guide, labelled.x, labelled.y)
    own = labelled.log_joint.gather(1, labelled.y[:, None]).sum()
    torch.testing.assert_close(elbo, own, rtol=1e-9, atol=1e-9)


def test_classification_follows_the_posterior(labelled):
    program = labelled.program()
    exact = labelled.log_joint.softmax(-1)
    torch.testing.assert_close(program.classify(labelled.x), exact)
    right = (exact.argmax(-1) == labelled.y).double().mean().item()
    assert program.accuracy(labelled.x, labelled.y) == right


# -- programs of networks ------------------------------------------------------------------------


def _semi_supervised(seed=0, **options):
    config = pv.Config(latent_dim=3, hidden=(8,), seed=seed)
    return SemiSupervisedVAE.from_config(config, event_shape=(8, 8), classes=10, **options)


def _with_seed(seed, **options):
    return pv.Config(latent_dim=3, hidden=(8,), seed=seed, **options)


PROGRAMS = {
    "bottom-up": lambda seed: HierarchicalVAE.from_config(
        _with_seed(seed, prior="mixture"), event_shape=(8, 8)
    ),
    "top-down": lambda seed: HierarchicalVAE.from_config(
        _with_seed(seed, prior="mixture", network="gated"), event_shape=(8, 8), form="top-down"
    ),
    "labels": lambda seed: ConditionalVAE.from_config(
        _with_seed(seed, prior="mixture"), event_shape=(8, 8), classes=10
    ),
    "condition": lambda seed: ConditionalVAE.from_config(
        _with_seed(seed), event_shape=(8, 8), condition_shape=(2, 8), learned_prior=True
    ),
    "semi-supervised": _semi_supervised,
    "masked": lambda seed: Masked(pv.VAE.from_config(_with_seed(seed), event_shape=(8, 8))),
}


def arguments(name, data, n=None):
    x, y = data.x[:n], data.y[:n]
    if name == "labels":
        return x, y
    if name == "condition":
        return x, x[:, :2]
    if name == "semi-supervised":
        return x, torch.where(torch.arange(len(y)) % 2 == 0, y, -1)
    if name == "masked":
        return x, torch.arange(64).reshape(8, 8).expand_as(x) % 3 > 0
    return (x,)


def objective(name):
    return EnumeratedELBO() if name == "semi-supervised" else pv.ELBO()


EVERY = pytest.mark.parametrize("name", PROGRAMS)


@EVERY
def test_gradients_reach_all_parameters(name, digits):
    program = PROGRAMS[name](0)
    loss, elbo = objective(name).terms(
        program.model, program.guide, *arguments(name, digits.train, 20)
    )
    loss.backward()
    assert not elbo.requires_grad
    for parameter_name, parameter in program.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert (parameter.grad != 0).any(), parameter_name


@EVERY
def test_fit_and_evidence_on_digits(name, digits):
    program = PROGRAMS[name](0)
    train, test = arguments(name, digits.train), arguments(name, digits.test, 20)
    data, valid = (a if len(a) > 1 else a[0] for a in (train, test))
    history = pv.fit(
        program, data, valid, objective=objective(name), epochs=2, batch_size=200, device="cpu"
    )
    first, last = history.epochs
    assert math.isfinite(last.train_elbo)
    assert last.train_elbo > first.train_elbo
    evidence = pv.log_evidence(program.model, program.guide, test, samples=50)
    assert evidence.log_px.isfinite().all()
    assert (evidence.log_px >= evidence.elbo).all()
    assert evidence.log_px.mean() > last.valid_elbo - 5
    assert len(pyro.get_param_store()) == 0


@EVERY
def test_svi_trains_the_program_as_it_is(name, digits):
    program = PROGRAMS[name](0)
    before = copy.deepcopy(program.state_dict())
    loss = TraceEnum_ELBO(max_plate_nesting=1) if name == "semi-supervised" else Trace_ELBO()
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    batch = arguments(name, digits.train, 50)
    losses = [svi.step(*batch) for _ in range(30)]
    assert losses[-1] < losses[0]
    trained = {key for key, _ in program.named_parameters()}
    for key, value in program.state_dict().items():
        assert key not in trained or not torch.equal(value, before[key]), key
    assert len(pyro.get_param_store()) == 0


@EVERY
def test_state_survives_saving(name, digits, tmp_path):
    program, other = PROGRAMS[name](0), PROGRAMS[name](1)
    torch.save(program.state_dict(), tmp_path / "state.pt")
    batch = arguments(name, digits.test, 5)

    def log_px(program):
        return pv.log_evidence(program.model, program.guide, batch, samples=20).log_px

    assert not torch.equal(log_px(program), log_px(other))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(log_px(program), log_px(other))


@EVERY
def test_initial_parameters_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = PROGRAMS[name](3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two = PROGRAMS[name](3)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["bottom-up", "top-down", "labels", "condition"])
def test_particles_agree_with_a_loop(name, digits):
    """Particles at once give what Pyro's give one by one, within 5 standard errors."""
    program = PROGRAMS[name](0).double()
    batch = tuple(
        a.double() if a.is_floating_point() else a for a in arguments(name, digits.train, 10)
    )
    with torch.no_grad():
        many = [
            pv.ELBO(particles=3).terms(program.model, program.guide, *batch)[1] for _ in "x" * 40
        ]
        single = [Trace_ELBO().loss(program.model, program.guide, *batch) for _ in "x" * 120]
    a, b = torch.stack(many), -torch.tensor(single).double()
    # all are means of 20 draws, so that the many of a say how far each scatters
    error = (a.var() * (1 / len(a) + 1 / len(b))).sqrt()
    assert abs(a.mean() - b.mean()) < 5 * error


def test_labels_reach_the_parts_as_one_hot(digits):
    """The same numbers as with the one-hot vectors as a tensor condition."""
    x, y = digits.test.x[:5], digits.test.y[:5]
    program = PROGRAMS["labels"](0)
    plain = ConditionalVAE(program.prior, program.likelihood, program.posterior)
    hot = nn.functional.one_hot(y, 10).float()
    labelled = pv.log_evidence(program.model, program.guide, (x, y), samples=20)
    vectors = pv.log_evidence(plain.model, plain.guide, (x, hot), samples=20)
    assert torch.equal(labelled.log_px, vectors.log_px)
    assert not torch.equal(
        labelled.log_px,
        pv.log_evidence(program.model, program.guide, (x, (y + 1) % 10), samples=20).log_px,
    )


def test_samples_are_seeded(digits):
    y = torch.arange(10)
    for draw in (
        lambda seed, **k: PROGRAMS["bottom-up"](0).sample(4, seed=seed, **k),
        lambda seed, **k: PROGRAMS["labels"](0).sample(y, seed=seed, **k),
        lambda seed, **k: PROGRAMS["condition"](0).sample(digits.test.x[:4, :2], seed=seed, **k),
        lambda seed, **k: PROGRAMS["semi-supervised"](0).sample(y, seed=seed, **k),
    ):
        state = torch.get_rng_state()
        x = draw(3)
        assert torch.equal(torch.get_rng_state(), state)
        assert x.shape[1:] == (8, 8)
        assert torch.equal(x, draw(3))
        assert not torch.equal(x, draw(4))
        assert set(x.unique().tolist()) == {0, 1}
        mean = draw(3, mean=True)
        assert ((mean > 0) & (mean < 1)).all()
        assert not torch.equal(draw(None), draw(None))


def test_style_and_label_are_apart(digits):
    program = _semi_supervised()
    x, y = digits.test.x[:4], digits.test.y[:4]
    z = program.encode(x, y)
    assert z.shape == (4, 3)
    grid = program.decode(z[:, None].expand(4, 10, 3), torch.arange(10).expand(4, 10))
    assert grid.shape == (4, 10, 8, 8)
    torch.testing.assert_close(grid[2, int(y[2])], program.decode(z[2:3], y[2:3])[0])


def test_vamp_prior_over_the_top_layer(digits):
    """Top-down, q(z2|x) gives a VampPrior of z2; bottom-up there is no such posterior."""
    config = pv.Config(latent_dim=3, hidden=(8,), prior="vamp", prior_components=20)
    x = digits.train.x
    vae = HierarchicalVAE.from_config(config, event_shape=(8, 8), data=x, form="top-down")
    pv.fit(vae, x[:200], epochs=1)
    assert vae.prior().event_shape == (1,)
    assert vae.prior.posterior is vae.posterior2
    with pytest.raises(ValueError, match="made of the model's posterior"):
        HierarchicalVAE.from_config(config, event_shape=(8, 8))


def test_convolutions_below_dense_layers_above(digits):
    config = pv.Config(latent_dim=3, network="conv", hidden=(4,))
    vae = HierarchicalVAE.from_config(config, event_shape=(8, 8), data=digits.train.x)
    assert vae.reconstruct(digits.test.x[:3]).shape == (3, 8, 8)


@pytest.mark.parametrize("network", ["conv", "residual"])
@pytest.mark.parametrize("kind", [ConditionalVAE, SemiSupervisedVAE, HierarchicalVAE])
def test_images_beside_labels_and_latents(digits, network, kind):
    """Encoders of several inputs see them all: the gradient reaches each plane."""
    config = pv.Config(latent_dim=3, network=network, hidden=(4,))
    options = {"form": "top-down"} if kind is HierarchicalVAE else {"classes": 10}
    program = kind.from_config(config, event_shape=(8, 8), data=digits.train.x, **options)
    x, y = digits.train.x[:40], digits.train.y[:40]
    objective = pv.EnumeratedELBO() if kind is SemiSupervisedVAE else pv.ELBO()
    data = x if kind is HierarchicalVAE else (x, y)
    pv.fit(program, data, objective=objective, epochs=1, batch_size=20, progress=False)
    evidence = pv.log_evidence(program.model, program.guide, data, samples=20, search=False)
    assert evidence.log_px.isfinite().all()
    encoder = (program.posterior1 if kind is HierarchicalVAE else program.posterior).network
    first = encoder.network.hidden[0].weight
    assert first.shape[1] == (2 if kind is HierarchicalVAE else 11)  # the image, then the rest
    code = torch.zeros(2, 1 if kind is HierarchicalVAE else 10, requires_grad=True)
    encoder(x[:2], code).square().sum().backward()
    assert (code.grad != 0).all()


# -- enumerated labels ---------------------------------------------------------------------------


def explicit_terms(program, x, y, seed, kl_weight):
    """The loss as a sum over labels written out, with the draws that enumeration makes."""
    classes, n = program.classes, len(x)
    torch.manual_seed(seed)
    noise = torch.normal(torch.zeros(classes, n, 3).double(), torch.ones(classes, n, 3).double())
    log_qy = program.classifier(x).logits
    loss = 0.0
    for label in range(classes):
        hot = nn.functional.one_hot(torch.full((n,), label), classes).double()
        q = program.posterior(x, hot)
        z = q.base_dist.loc + q.base_dist.scale * noise[label]
        log_px = program.likelihood(z, hot).log_prob(x)
        kl = q.log_prob(z) - program.prior().log_prob(z)
        log_py = program.label_prior().log_prob(torch.tensor(label))
        for row in range(n):
            if y[row] < 0:
                kl_row = kl[row] + log_qy[row, label] - log_py
                weight = log_qy[row, label].exp()
                loss = loss - weight * (log_px[row] - kl_weight * kl_row)
            elif y[row] == label:
                loss = loss - log_px[row] + kl_weight * (kl[row] - log_py)
                loss = loss - program.classification_weight * log_qy[row, label]
    return loss


@pytest.mark.parametrize("kl_weight", [1.0, 0.3, 0.0])
def test_enumeration_is_the_sum_over_labels(digits, kl_weight):
    program = _semi_supervised(classification_weight=2.0).double()
    x, y = arguments("semi-supervised", digits.test, 6)
    x = x.double()
    names, parameters = zip(*program.named_parameters(), strict=True)
    torch.manual_seed(5)
    loss, _ = EnumeratedELBO().terms(program.model, program.guide, x, y, kl_weight=kl_weight)
    explicit = explicit_terms(program, x, y, 5, kl_weight)
    torch.testing.assert_close(loss, explicit, rtol=1e-10, atol=1e-10)
    expected = torch.autograd.grad(explicit, parameters)
    for name, a, b in zip(names, torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("particles", [1, 3])
def test_enumerated_elbo_is_that_of_pyro(digits, particles):
    program = _semi_supervised().double()
    x, y = arguments("semi-supervised", digits.test, 6)
    x, parameters = x.double(), list(program.parameters())
    pyro_loss = TraceEnum_ELBO(
        num_particles=particles, vectorize_particles=True, max_plate_nesting=1
    )
    torch.manual_seed(5)
    theirs = pyro_loss.differentiable_loss(program.model, program.guide, x, y)
    torch.manual_seed(5)
    ours, _ = EnumeratedELBO(particles=particles).terms(program.model, program.guide, x, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(theirs, parameters)
    for a, b in zip(torch.autograd.grad(ours, parameters), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_enumeration_weighs_terms_by_the_plates_they_are_in():
    """A latent outside the plate of an enumerated one counts once; two plates do not mix."""
    x, w = torch.randn(5).double(), torch.randn(4).double()
    logits = torch.randn(5, 3).double().requires_grad_()
    other = torch.randn(4, 2).double().requires_grad_()
    loc = torch.tensor(0.3).double().requires_grad_()
    enumerated = {"enumerate": "parallel"}

    def model(x, w):
        shift = pyro.sample("shift", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(3).double()))
            pyro.sample("x", dist.Normal(shift + y, 1.0), obs=x)
        with pyro.plate("others", len(w)):
            k = pyro.sample("k", dist.Categorical(logits=torch.zeros(2).double()))
            pyro.sample("w", dist.Normal(shift * (k + 1), 1.0), obs=w)

    def guide(x, w):
        pyro.sample("shift", dist.Normal(loc, 0.7))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), infer=enumerated)
        with pyro.plate("others", len(w)):
            pyro.sample("k", dist.Categorical(logits=other), infer=enumerated)

    losses, gradients = [], []
    for loss in (TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss, _terms_of):
        torch.manual_seed(0)
        losses.append(torch.as_tensor(loss(model, guide, x, w)))
        gradients.append(torch.autograd.grad(losses[-1], [logits, other, loc]))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def _terms_of(model, guide, *args):
    return EnumeratedELBO().terms(model, guide, *args)[0]


@pytest.mark.parametrize("particles", [1, 3])
def test_the_reported_elbo_has_neither_regularizer_nor_scale(digits, particles):
    program = _semi_supervised().double()
    x, y = arguments("semi-supervised", digits.test, 6)
    x = x.double()
    objective = EnumeratedELBO(particles=particles)

    def terms(model, guide, **options):
        torch.manual_seed(5)
        return objective.terms(model, guide, x, y, **options)

    loss, elbo = terms(program.model, program.guide)
    assert terms(program.model, program.guide, kl_weight=0.5)[1] == elbo
    scaled = terms(*(poutine.scale(fn, 2.0) for fn in (program.model, program.guide)))
    torch.testing.assert_close(scaled[0], 2 * loss)
    torch.testing.assert_close(scaled[1], elbo)
    program.eval()
    torch.testing.assert_close(terms(program.model, program.guide)[1], elbo)
    torch.testing.assert_close(terms(program.model, program.guide)[0], -elbo)
    known = y >= 0
    log_q = program.classifier(x).log_prob(y.clamp_min(0))[known].sum()
    torch.testing.assert_close(loss, -elbo - 10 * log_q)


def test_labels_that_are_certain_leave_no_nan(digits):
    """A classifier that is sure, and labels that contradict it."""
    program = _semi_supervised()
    with torch.no_grad():
        program.classifier.network.output.bias[3] = 1e4
    x = digits.test.x[:6]
    y = torch.tensor([3, 4, -1, -1, 0, 9])
    loss, elbo = EnumeratedELBO().terms(program.model, program.guide, x, y)
    loss.backward()
    assert loss.isfinite()
    assert elbo.isfinite()
    assert all(p.grad.isfinite().all() for p in program.parameters())


def test_enumeration_in_the_model_is_a_mixture():
    """Sites enumerated in the model alone are summed inside the logarithm."""
    x = torch.tensor([0.3, -1.0, 2.0])

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample(
                "k", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", dist.Normal(torch.tensor([-1.0, 1.0])[k], 0.5), obs=x)

    def guide(x):
        pass

    exact = torch.stack(
        [
            math.log(p) + dist.Normal(m, 0.5).log_prob(x)
            for p, m in ((0.4, torch.tensor(-1.0)), (0.6, torch.tensor(1.0)))
        ]
    ).logsumexp(0)
    loss, elbo = EnumeratedELBO().terms(model, guide, x)
    torch.testing.assert_close(elbo, exact.sum())
    torch.testing.assert_close(loss, -exact.sum())


def test_enumeration_needs_particles_and_plates():
    with pytest.raises(ValueError, match="particles must be at least 1; got 0"):
        EnumeratedELBO(particles=0)
    with pytest.raises(ValueError, match="plates must be at least 0; got -1"):
        EnumeratedELBO(plates=-1)
    assert repr(EnumeratedELBO(particles=2)) == "EnumeratedELBO(particles=2)"


# -- labels --------------------------------------------------------------------------------------


def test_partially_labelled_is_balanced_and_seeded(digits):
    x, y = digits.train.x, digits.train.y
    some, partial = partially_labelled(x, y, labels=95, repeats=3, seed=1)
    assert torch.equal(some[: len(x)], x)
    own = partial[: len(y)]
    known = own >= 0
    assert known.sum() == 95
    assert torch.equal(own[known], y[known])
    counts = own[known].bincount(minlength=10)
    assert set(counts.tolist()) == {9, 10}
    assert len(some) == len(partial) == len(x) + 2 * 95
    assert torch.equal(some[len(x) :], x[known].repeat(2, 1, 1))
    assert torch.equal(partial[len(y) :], y[known].repeat(2))
    again = partially_labelled(x, y, labels=95, repeats=3, seed=1)[1]
    assert torch.equal(again, partial)
    assert not torch.equal(partially_labelled(x, y, labels=95, repeats=3, seed=2)[1], partial)


def test_a_tenth_of_the_rows_are_labelled_by_default(digits):
    for labels in (10, 50):
        _, y = partially_labelled(digits.train.x, digits.train.y, labels=labels)
        assert (y >= 0).double().mean() == pytest.approx(0.1, abs=0.02)
    _, y = partially_labelled(digits.train.x, digits.train.y, labels=600)
    assert len(y) == len(digits.train.y)


def test_label_prior():
    prior = LabelPrior(4)
    torch.testing.assert_close(prior().probs, torch.full((4,), 0.25))
    assert not list(prior.parameters())
    assert len(list(LabelPrior(4, learned=True).parameters())) == 1


def test_one_hot():
    y = torch.tensor([[0, 2], [1, 1]])
    assert torch.equal(one_hot(y, 3, dtype=torch.float64), nn.functional.one_hot(y, 3).double())


def test_wrong_labels_never_pass(monkeypatch, digits):
    x = digits.test.x[:3]
    conditional, semi = PROGRAMS["labels"](0), _semi_supervised()
    for fn in (conditional.model, conditional.guide):
        with pytest.raises(ValueError, match=r"integers from 0 to 9; got 10 in row 1"):
            fn(x, torch.tensor([0, 10, 0]))
        with pytest.raises(ValueError, match=r"integers from 0 to 9; got -1 in row 0"):
            fn(x, torch.tensor([-1, 1, 0]))
        with pytest.raises(TypeError, match=r"got torch.float32. Convert"):
            fn(x, torch.zeros(3))
        with pytest.raises(ValueError, match="3 data, but 2 conditions"):
            fn(x, torch.tensor([0, 1]))
    for fn in (semi.model, semi.guide):
        with pytest.raises(ValueError, match=r"integers from -1 to 9; got -2 in row 2"):
            fn(x, torch.tensor([-1, 1, -2]))
        with pytest.raises(ValueError, match=r"y must have shape \(3,\)"):
            fn(x, torch.zeros(3, 1).long())
    with pytest.raises(ValueError, match="got 12 in row 1"):
        pv.fit(conditional, (x, torch.tensor([1, 12, 3])), epochs=1)
    with pytest.raises(ValueError, match="got 12 in row 1"):
        pv.log_evidence(semi.model, semi.guide, (x, torch.tensor([1, 12, 3])), samples=1)
    # where values are not looked at, they become NaN
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert one_hot(torch.tensor([3, -1]), 3, dtype=torch.float32).isnan().all()
    with pytest.raises(pv.NonFiniteLoss):
        pv.fit(conditional, (x, torch.tensor([1, 12, 3])), epochs=1)


def test_wrong_numbers_of_labels(digits):
    x, y = digits.train.x, digits.train.y
    with pytest.raises(ValueError, match="labels must be from 10, one of each class, to 1257"):
        partially_labelled(x, y, labels=9)
    with pytest.raises(ValueError, match="labels must be from 10"):
        partially_labelled(x, y, labels=2000)
    with pytest.raises(ValueError, match="are to be labelled"):
        partially_labelled(x, y, labels=1250)
    with pytest.raises(ValueError, match="repeats must be at least 1; got 0"):
        partially_labelled(x, y, repeats=0)
    with pytest.raises(ValueError, match="one label for each of 1257 data"):
        partially_labelled(x, y[:5])


# -- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["guide", "laplace"])
def test_masked_evidence_is_that_of_the_mask(digits, method):
    """The same numbers for the same seed, whatever the hidden values are."""
    masked = PROGRAMS["masked"](0)
    vae = masked.program
    x, mask = arguments("masked", digits.test, 2)
    settings = {"samples": 10, "seed": 3, "method": method}
    expected = pv.log_evidence(vae.model, vae.guide, x, mask=mask, **settings)
    hidden = torch.where(mask, x, 1 - x)
    result = pv.log_evidence(masked.model, masked.guide, (hidden, mask), **settings)
    assert torch.equal(result.log_px, expected.log_px)
    other = pv.log_evidence(vae.model, vae.guide, hidden, mask=mask, **settings)
    assert torch.equal(other.log_px, expected.log_px)
    whole = pv.log_evidence(vae.model, vae.guide, x, **settings)
    assert (whole.log_px < expected.log_px).all()


def test_hidden_values_have_no_effect_on_training(digits):
    x, mask = arguments("masked", digits.train, 50)
    programs = [PROGRAMS["masked"](0) for _ in range(2)]
    elbos = []
    for program, hidden in zip(programs, (0.0, math.nan), strict=True):
        history = pv.fit(program, (x.masked_fill(~mask, hidden), mask), epochs=2, seed=1)
        elbos.append(history.epochs[-1].train_elbo)
    assert elbos[0] == elbos[1]
    for a, b in zip(*(program.parameters() for program in programs), strict=True):
        assert torch.equal(a, b)


def test_a_full_mask_changes_nothing(digits):
    masked = PROGRAMS["masked"](0)
    x = digits.train.x[:10]
    terms = []
    for program, batch in ((masked, (x, torch.ones_like(x).bool())), (masked.program, (x,))):
        torch.manual_seed(0)
        terms.append(pv.ELBO().terms(program.model, program.guide, *batch)[0])
    torch.testing.assert_close(*terms)


def test_hidden_values_outside_the_support():
    """Zero is no value of a log-normal; its gradient there would be NaN."""

    class LogNormal(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, z):
            return dist.LogNormal(self.shift + z, 1.0).to_event(1)

    masked = Masked(
        pv.VAE(pv.priors.StandardNormal(3), LogNormal(), pv.posteriors.DiagonalNormal(_Rows()))
    )
    x = torch.rand(20, 3)
    mask = torch.rand(20, 3) > 0.4
    gradients = []
    for hidden in (0.0, 0.7):
        torch.manual_seed(0)
        batch = (x.masked_fill(~mask, hidden), mask)
        loss, _ = pv.ELBO().terms(masked.model, masked.guide, *batch)
        gradients.append(torch.autograd.grad(loss, masked.program.likelihood.shift)[0])
    assert gradients[0].isfinite().all()
    assert torch.equal(*gradients)
    pv.fit(masked, batch, epochs=1)
    evidence = pv.log_evidence(masked.model, masked.guide, batch, samples=10)
    assert evidence.log_px.isfinite().all()


class _Rows(nn.Module):
    def forward(self, x):
        return torch.stack([x, x], -2)


def test_impute(digits):
    masked = PROGRAMS["masked"](0)
    x, mask = arguments("masked", digits.test, 5)
    full = masked.impute(x.masked_fill(~mask, math.nan), mask)
    assert torch.equal(full[mask], x[mask])
    zeros = torch.where(mask, x, torch.zeros_like(x))
    torch.testing.assert_close(full[~mask], masked.program.reconstruct(zeros)[~mask])


def test_masked_program_of_several_arguments(digits):
    """The mask comes after them, and evidence is that of the program with mask=..."""
    program = pv.ConditionalVAE.from_config(_with_seed(0), event_shape=(8, 8), classes=10)
    masked = Masked(program)
    x, y = digits.test.x[:20], digits.test.y[:20]
    mask = torch.rand(20, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.6
    pv.fit(masked, (x.masked_fill(~mask, math.nan), y, mask), epochs=1, device="cpu")
    one = pv.log_evidence(masked.model, masked.guide, (x, y, mask), samples=10)
    other = pv.log_evidence(program.model, program.guide, (x, y), mask=mask, samples=10)
    assert torch.equal(one.log_px, other.log_px)
    whole = pv.log_evidence(program.model, program.guide, (x, y), samples=10)
    assert not torch.equal(one.log_px, whole.log_px)


def test_wrong_masks(digits):
    masked = PROGRAMS["masked"](0)
    x = digits.test.x[:3]
    for fn in (masked.model, masked.guide):
        with pytest.raises(ValueError, match="mask must be boolean"):
            fn(x, torch.ones_like(x))
        with pytest.raises(ValueError, match="mask must have the data's shape"):
            fn(x, torch.ones(3).bool())
    with pytest.raises(TypeError, match="takes the mask as its last argument"):
        masked.model(x)
    with pytest.raises(TypeError, match="methods model and guide"):
        Masked(nn.Linear(2, 2))
    joint = Gaussian({"x": ["z"]}, z=2, x=3)
    dependent = Masked(pv.VAE(joint.part("z"), joint.part("x", "z"), joint.part("z", "x")))
    with pytest.raises(ValueError, match="is MultivariateNormal, whose values are dependent"):
        dependent.model(joint.values["x"], torch.ones(7, 3).bool())


# -- construction --------------------------------------------------------------------------------


_PROGRAM_CONFIG = {"latent_dim": 3, "hidden": (12,), "classes": 10}


@pytest.mark.parametrize("program", models.MODELS)
def test_every_program_is_built_by_name_and_trains(program, digits):
    """One word of the config; the parameters are those of the class's own ``from_config``."""
    config = _PROGRAM_CONFIG | {"program": program}
    if program == "counts":
        config["likelihood"] = "poisson"
    model = pv.build_program(pv.Config(**config), event_shape=(8, 8), data=digits.train.x)
    assert type(model) is models.MODELS[program]
    again = type(model).from_config(pv.Config(**config), event_shape=(8, 8), data=digits.train.x)
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    x, y = digits.train.x[:100], digits.train.y[:100]
    beside = {"conditional": y, "semi-supervised": y, "counts": torch.full((100,), 5.0)}
    given = [beside[program]] if program in beside else []
    objective = pv.EnumeratedELBO() if program == "semi-supervised" else pv.ELBO()
    history = pv.fit(model, (x, *given), epochs=1, objective=objective)
    assert math.isfinite(history.epochs[-1].train_elbo)
    assert model.reconstruct(x[:3], *(part[:3] for part in given)).shape == (3, 8, 8)
    given = given[0][:4] if given else 4
    assert torch.equal(model.sample(given, seed=0), model.sample(given, seed=0))


def test_settings_of_a_config_and_of_the_caller():
    """A model reads its settings from the config; an argument takes their place."""
    config = pv.Config(**_PROGRAM_CONFIG, classification_weight=3.0)
    semi = pv.SemiSupervisedVAE.from_config(config, event_shape=(8, 8))
    assert (semi.classes, semi.classification_weight) == (10, 3.0)
    semi = pv.SemiSupervisedVAE.from_config(
        config, event_shape=(8, 8), classes=4, classification_weight=0.0
    )
    assert (semi.classes, semi.classification_weight) == (4, 0.0)
    learned = pv.Config(**_PROGRAM_CONFIG, program="conditional", learned_prior=True)
    assert pv.build_program(learned, event_shape=(8, 8)).prior_sees_condition
    fixed = pv.ConditionalVAE.from_config(learned, event_shape=(8, 8), learned_prior=False)
    assert not fixed.prior_sees_condition
    other = pv.ConditionalVAE.from_config(learned, event_shape=(8, 8), condition_shape=(3,))
    assert other.classes is None


def test_programs_that_a_config_does_not_describe():
    small = {"latent_dim": 3, "hidden": (12,)}
    for program, message in (
        ("conditional", r"give one of condition_shape=.*classes=None"),
        ("semi-supervised", r"number of classes is not known; give classes=\.\.\."),
    ):
        with pytest.raises(ValueError, match=message):
            pv.build_program(pv.Config(program=program, **small), event_shape=(8, 8))
    for kind, program in (
        (pv.VAE, "conditional"),
        (pv.ConditionalVAE, "semi-supervised"),
        (pv.HierarchicalVAE, "conditional"),
        (pv.SemiSupervisedVAE, "top-down"),
    ):
        config = pv.Config(program=program, classes=10, **small)
        with pytest.raises(ValueError, match=rf"{kind.__name__} is not what.*{program!r}"):
            kind.from_config(config, event_shape=(8, 8))
    with pytest.raises(ValueError, match=r"VAE is not what.*top_dim=2.*leave these out"):
        pv.VAE.from_config(pv.Config(top_dim=2, **small), event_shape=(8, 8))


def test_arguments_go_to_the_models_device(digits):
    """On the meta device: anything left on the CPU would be an error."""
    labels = torch.zeros(2, dtype=torch.long)
    x = digits.test.x[:2]
    for program, kind in models.MODELS.items():
        likelihood = "poisson" if program == "counts" else "bernoulli"
        config = pv.Config(**_PROGRAM_CONFIG, program=program, likelihood=likelihood)
        model = kind.from_config(config, event_shape=(8, 8)).to("meta")
        assert model.device == torch.device("meta")
        given = [labels] if program in ("conditional", "semi-supervised") else []
        given = [torch.ones(2)] if program == "counts" else given
        with pyro.validation_enabled(False):
            assert model.reconstruct(x, *given).device.type == "meta"
            assert model.sample(*(given or [2]), mean=True).device.type == "meta"
            if program == "semi-supervised":
                assert model.classify(x=x).device.type == "meta"
    assert pv.VAE(nn.Identity(), nn.Identity(), nn.Identity()).device.type == "cpu"


def test_wrong_construction():
    config = pv.Config(latent_dim=3, hidden=(8,))
    with pytest.raises(ValueError, match="unknown form 'sideways'; there are bottom-up"):
        HierarchicalVAE(*[nn.Identity()] * 5, form="sideways")
    with pytest.raises(ValueError, match="top_dim must be at least 1; got 0"):
        HierarchicalVAE.from_config(config, event_shape=(4,), top_dim=0)
    with pytest.raises(ValueError, match="number of samples must be at least 1; got 0"):
        HierarchicalVAE.from_config(config, event_shape=(4,)).sample(0)
    for options in ({}, {"classes": 3, "condition_shape": (2,)}):
        with pytest.raises(ValueError, match="give one of condition_shape"):
            ConditionalVAE.from_config(config, event_shape=(4,), **options)
    with pytest.raises(ValueError, match="classes must be at least 1; got 0"):
        ConditionalVAE(*[nn.Identity()] * 3, classes=0)
    with pytest.raises(ValueError, match="classes must be at least 2; got 1"):
        SemiSupervisedVAE.from_config(config, event_shape=(4,), classes=1)
    with pytest.raises(ValueError, match="must not be negative; got -1"):
        _semi_supervised(classification_weight=-1.0)


def test_parts_are_swapped_by_argument(digits):
    """Another classifier and another prior, with the rest kept."""
    usual = _semi_supervised()
    linear = Classifier(pv.networks.MLP((8, 8), (10,), hidden=()))
    prior = pv.priors.MixtureOfNormals(3, components=4)
    own = SemiSupervisedVAE(
        LabelPrior(10, learned=True), prior, usual.likelihood, usual.posterior, linear, classes=10
    )
    x, y = arguments("semi-supervised", digits.train, 50)
    pv.fit(own, (x, y), objective=EnumeratedELBO(), epochs=1)
    assert own.label_prior.logits.abs().max() > 0
    assert own.classify(x).shape == (50, 10)
