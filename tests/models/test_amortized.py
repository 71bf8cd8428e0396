import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_vae as pv
from pyro_vae.distributions import ConstrainedDistribution
from pyro_vae.models import amortize

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

FAMILIES = ("normal", "full", "low-rank", "flow")
SMALL = {"hidden": (16,), "features": 16}


def factors(weight, noise=0.7):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(weight.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, noise).to_event(1), obs=x)

    return model


def chain(x):
    """An item's b around a's, and an observation around each: a, b and x are jointly normal."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(0.5, 1.0))
        with pyro.plate("items", x.shape[1]):
            b = pyro.sample("b", dist.Normal(a, 0.5))
            pyro.sample("x", dist.Normal(b, 0.5), obs=x.T)


def mixed(x):
    """Every kind of support, an inner plate, and the data plate left of it."""
    with pyro.plate("data", len(x), dim=-2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        share = pyro.sample("share", dist.Uniform(-1.0, 3.0))
        matrix = pyro.sample("matrix", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        with pyro.plate("items", x.shape[1], dim=-1):
            size = pyro.sample("size", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            mean = rate.log() + size.sum(-1) + share * shares[..., 0] + matrix.sum((-2, -1))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def trained(model, x, *, epochs, learning_rate=0.01, batch_size=100, **options):
    program = pv.amortize(model, x, **options)
    pv.fit(
        program,
        x,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        schedule="one-cycle",
        device="cpu",
    )
    return program


@torch.no_grad()
def elbo(program, *batch, draws=50):
    """ELBO per datum and its Monte-Carlo error."""
    torch.manual_seed(0)
    found = [pv.ELBO().terms(program.model, program.guide, *batch)[1] for _ in range(draws)]
    values = torch.stack(found) / len(batch[0])
    return values.mean().item(), values.std().item() / math.sqrt(draws)


def test_factor_analysis_reaches_its_evidence():
    torch.manual_seed(0)
    weight = torch.tensor([[1.0, 0.7], [0.9, 1.1], [-0.8, -0.6], [1.1, 1.0]])
    x = torch.randn(1000, 2) @ weight.T + 0.7 * torch.randn(1000, 4)
    covariance = weight @ weight.T + 0.49 * torch.eye(4)
    exact = dist.MultivariateNormal(torch.zeros(4), covariance).log_prob(x).mean().item()
    options = {"epochs": 40, "hidden": (32,), "features": 32}
    program = trained(factors(weight), x, family="full", **options)
    value, error = elbo(program, x)
    assert exact - 0.01 - 4 * error < value < exact + 4 * error
    assert error < 0.001  # the posterior itself has none
    value, _ = elbo(trained(factors(weight), x, family="normal", **options), x)
    assert value < exact - 0.02  # a diagonal normal cannot


def test_dependent_latents_and_inner_plate_give_the_exact_evidence():
    torch.manual_seed(0)
    covariance = torch.ones(3, 3) + 0.5 * torch.eye(3)
    joint = dist.MultivariateNormal(torch.full((3,), 0.5), covariance)
    x, new = joint.sample((600,)), joint.sample((40,))
    options = {"epochs": 60, "hidden": (32,), "features": 32}
    program = trained(chain, x, **options)
    evidence = pv.log_evidence(program.model, program.guide, new, method="auto", samples=2000)
    error = (evidence.log_px - joint.log_prob(new)) / evidence.standard_error
    assert error.abs().max() < 4.5
    assert evidence.standard_error.max() < 0.05
    ours, _ = elbo(program, x)
    exact = joint.log_prob(x).mean().item()
    assert exact - 0.03 < ours < exact + 0.005
    theirs, _ = elbo(trained(chain, x, structured=False, **options), x)
    assert theirs < ours - 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_support_in_every_family(family):
    torch.manual_seed(0)
    x = 2 + torch.randn(40, 3)
    program = pv.amortize(mixed, x, family=family, **SMALL)
    trace = poutine.trace(program.guide).get_trace(x)
    assert trace.nodes["shares"]["value"].shape == (40, 1, 3)
    assert trace.nodes["size"]["value"].shape == (40, 3, 2)
    assert trace.nodes["share"]["value"].shape == (40, 1)
    model = poutine.trace(poutine.replay(mixed, trace)).get_trace(x)
    for name in ("rate", "shares", "share", "matrix", "size"):
        site, own = model.nodes[name], trace.nodes[name]
        assert own["fn"].event_shape == site["fn"].event_shape
        assert own["fn"].support.check(own["value"]).all()
        # An own draw is scored as any other value: the density knows its inverse.
        again = own["fn"].log_prob(own["value"].clone())
        torch.testing.assert_close(again, own["fn"].log_prob(own["value"]), rtol=1e-3, atol=2e-3)
    pv.fit(program, x, epochs=2, device="cpu")
    evidence = pv.log_evidence(program.model, program.guide, x[:5], samples=200)
    assert evidence.log_px.isfinite().all()


def test_guide_starts_at_the_prior():
    torch.manual_seed(0)

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(300.0, 0.01))
            b = pyro.sample("b", dist.LogNormal(5.0, 0.2))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    x = 450 + 30 * torch.randn(500)
    program = pv.amortize(model, x)
    trace = poutine.trace(program.guide).get_trace(x)
    for draws, mean, scale in (("a", 300.0, 0.01), ("b", 5.0, 0.2)):
        value = trace.nodes[draws]["value"]
        value = value if draws == "a" else value.log()
        assert abs(value.mean() - mean) < 0.5 * scale
        assert 0.6 < value.std() / scale < 1.7


def test_constrained_density_integrates_to_one():
    base = dist.Normal(torch.tensor([0.3]), torch.tensor([0.8])).to_event(1)
    support = constraints.interval(-1.0, 3.0)
    q = ConstrainedDistribution(
        base,
        torch.distributions.biject_to(support),
        (),
        support,
        loc=torch.tensor([0.5]),
        scale=torch.tensor([2.0]),
    )
    grid = torch.linspace(-1, 3, 20_002)[1:-1]
    assert q.event_shape == ()
    total = q.log_prob(grid).exp().sum() * (grid[1] - grid[0])
    assert abs(total - 1) < 1e-3
    draws = q.expand((7, 5)).rsample((1000,))
    assert draws.shape == (1000, 7, 5)
    mean = (grid * q.log_prob(grid).exp()).sum() * (grid[1] - grid[0])
    assert abs(draws.mean() - mean) < 4 * draws.std() / math.sqrt(draws.numel())


def test_enumerated_sites_are_summed_out():
    """A mixture of two normals around z: p(x) is a mixture of two normals."""
    torch.manual_seed(0)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + 4 * k, 0.5), obs=x)

    x = torch.randn(300) * 1.1 + 4 * (torch.rand(300) < 0.3)
    program = trained(model, x, epochs=30, **SMALL)
    evidence = pv.log_evidence(program.model, program.guide, x[:40], samples=1000)
    scale = math.sqrt(1.25)
    parts = [dist.Normal(mean, scale).log_prob(x[:40]) for mean in (0.0, 4.0)]
    exact = torch.logaddexp(parts[0] + math.log(0.7), parts[1] + math.log(0.3))
    assert ((evidence.log_px - exact) / evidence.standard_error).abs().max() < 5
    with pytest.raises(ValueError, match=r"cannot sum out 'k'.*EnumeratedELBO"):
        pv.fit(program, x, objective=pv.ELBO(), epochs=1)


def learned():
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 5))

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    return model, decoder, torch.randn(100, 5)


def moved(program, before):
    return [not torch.equal(a, b) for a, b in zip(program.parameters(), before, strict=True)]


def test_parameters_of_the_model_are_learned():
    model, decoder, x = learned()
    program = pv.amortize(model, x, **SMALL)
    owned = {id(p) for p in program.parameters()}
    assert all(id(p) in owned for p in decoder.parameters())
    before = [p.detach().clone() for p in program.parameters()]
    pv.fit(program, x, epochs=1, device="cpu")
    assert all(moved(program, before))
    before = [p.detach().clone() for p in program.parameters()]
    SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
    assert all(moved(program, before))


def test_copies_and_state():
    model, _, x = learned()
    program = pv.amortize(model, x, **SMALL)
    other = copy.deepcopy(program)
    before = [p.detach().clone() for p in program.parameters()]
    pv.fit(other, x, epochs=2, device="cpu")
    assert not any(moved(program, before))
    assert all(moved(other, before))

    def evidence(made):
        return pv.log_evidence(made.model, made.guide, x[:20], samples=50).log_px

    assert not torch.allclose(evidence(program), evidence(other), atol=1e-3)
    program.load_state_dict(other.state_dict())
    torch.testing.assert_close(evidence(program), evidence(other))
    again = pv.amortize(model, x, seed=3, **SMALL)
    again.load_state_dict(other.state_dict())
    torch.testing.assert_close(evidence(again), evidence(other))


@pytest.mark.slow
def test_compiled_is_plain():
    """With a bijection to an interval, a head that sees a latent, and an inner plate."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Uniform(-1.0, 2.0))
            with pyro.plate("items", x.shape[1]):
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x.T)

    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    programs = [pv.amortize(model, x, **SMALL) for _ in range(2)]
    for program, compiled in zip(programs, (False, True), strict=True):
        pv.fit(program, x, epochs=2, batch_size=100, compiled=compiled, device="cpu")
    for a, b in zip(*(program.parameters() for program in programs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_several_arguments_and_what_the_network_sees():
    torch.manual_seed(0)

    def model(x, counts):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), 3]).to_event(1), obs=x
            )
            pyro.sample("counts", dist.Poisson(z.exp()), obs=counts)

    x, counts = torch.randn(50, 3), torch.randint(5, (50,))
    program = pv.amortize(model, (x, counts), **SMALL)
    pv.fit(program, (x, counts), epochs=1, device="cpu")
    assert (
        pv.log_evidence(program.model, program.guide, (x, counts), samples=20)
        .log_px.isfinite()
        .all()
    )
    seen = []

    def encode(x, counts):
        seen.append((x.shape, counts.dtype))
        return x[:, :2]

    narrow = pv.amortize(model, (x, counts), encode=encode, network="gated", **SMALL)
    narrow.guide(x, counts)
    assert seen[-1] == (x.shape, counts.dtype)
    with pytest.raises(ValueError, match=r"need images.*got \(4,\)"):
        pv.amortize(model, (x, counts), network="conv")
    own = nn.Linear(2, 7)
    program = pv.amortize(model, (x, counts), encode=encode, network=own)
    assert id(own.weight) in {id(p) for p in program.parameters()}


def test_images_masks_and_scales():
    torch.manual_seed(0)
    weight = torch.randn(64, 2)

    def model(x):
        with pyro.plate("data", 1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = (z @ weight.T).reshape(*z.shape[:-1], 8, 8)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

    x, mask = torch.randn(30, 8, 8), torch.rand(30, 8, 8) > 0.3
    program = pv.amortize(model, x.masked_fill(~mask, math.nan), network="conv", hidden=(4, 4))
    trace = poutine.trace(program.guide).get_trace(x)
    assert trace.nodes["z"]["scale"] == 1000 / 30
    masked = pv.Masked(program)
    pv.fit(masked, (x, mask), epochs=1, device="cpu")
    known = torch.where(mask, x, 0.0)
    evidence = pv.log_evidence(program.model, program.guide, known, mask=mask, samples=50)
    assert evidence.log_px.isfinite().all()


def test_latents_outside_the_data_plate_have_a_guide_beside():
    torch.manual_seed(0)

    def model(x):
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 0.3))
            pyro.sample("x", dist.Normal(slope + z, 1.0), obs=x)

    x = 3 + torch.randn(500)
    with pytest.raises(ValueError, match=r"\['slope'\] lie outside.*globals_guide"):
        pv.amortize(model, x)
    program = trained(model, x, epochs=40, globals_guide=AutoNormal, learning_rate=0.1, **SMALL)
    assert not list(pyro.get_param_store().keys())
    found = torch.stack(
        [poutine.trace(program.guide).get_trace(x).nodes["slope"]["value"] for _ in range(200)]
    )
    assert abs(found.mean() - x.mean()) < 0.3
    copy.deepcopy(program).guide(x)


@pytest.mark.parametrize("choice", [{"family": "norml"}, {"network": "mpl"}])
def test_unknown_names(choice):
    with pytest.raises(ValueError, match="Did you mean"):
        pv.amortize(factors(torch.ones(3, 2)), torch.randn(5, 3), **choice)


def _one(prior):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return model


def _no_plate(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(1), obs=x)


def _no_latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def _masked(x):
    with pyro.plate("data", len(x)), poutine.mask(mask=x > 0):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _branching(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if len(x) == 10:
            z = z + pyro.sample("y", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x @ torch.ones(3), "does not run on 10 rows of x"),
        (_no_plate, "one plate that has an item for each row"),
        (_no_latent, "no continuous latent site in its data plate 'data'"),
        (_masked, "'z' is masked"),
        (_branching, "'y' is not in every run"),
        (_one(lambda x: dist.Poisson(1.0)), "'z' is discrete.*'enumerate': 'parallel'"),
        (_one(lambda x: dist.Uniform(0.0, 1 + x.abs())), "upper bound is not the same everywhere"),
        (_one(lambda x: dist.Uniform(0.0, nn.Parameter(torch.ones(())))), "that is learned"),
        (_one(lambda x: dist.Delta(torch.zeros(()))), "'z' is a Delta"),
    ],
)
def test_what_cannot_be_amortized_is_said(model, message):
    with pytest.raises(ValueError, match=message):
        amortize(model, torch.randn(10))


@pytest.mark.search
@pytest.mark.slow
def test_latents_of_all_data_beside_those_of_each():
    """x_n ~ N(w z_n, 1): p(w, -w) is the same, so that one mode alone is log 2 short."""
    torch.manual_seed(0)
    x = 1.5 * torch.randn(20, 1) * torch.tensor([1.0, -0.7]) + torch.randn(20, 2)

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * w, 1.0).to_event(1), obs=x)

    program = pv.amortize(model, x, globals_guide=AutoNormal)
    pv.fit(program, x, epochs=400, learning_rate=0.02, schedule="one-cycle")
    line = torch.linspace(-6, 6, 241).double()
    w = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    covariance = w[..., :, None] * w[..., None, :] + torch.eye(2).double()
    density = dist.Normal(0.0, 1.0).log_prob(w).sum(-1)
    density = density + sum(
        dist.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(row)
        for row in x.double()
    )
    exact = (density.logsumexp((0, 1)) + 2 * (line[1] - line[0]).log()).item()
    with pytest.warns(pv.UnreliableEvidence, match="misses"):
        one_mode = pv.log_evidence(program.model, program.guide, x, method="laplace")
    assert one_mode.mean().value < exact - 0.4
    both = pv.log_evidence(program.model, program.guide, x, method="auto")
    assert abs(both.mean().value - exact) < 4 * both.mean().mc_error


def test_arguments_by_name_in_any_order():
    """A dictionary means what the arguments in their order mean, to the bit."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    x, y = torch.linspace(-1, 1, 60).reshape(30, 2), torch.linspace(1, -1, 30)
    found = []
    for data in ((x, y), {"x": x, "y": y}, {"y": y, "x": x}):
        program = pv.amortize(model, data, hidden=(4,), features=4)
        pv.fit(program, data, epochs=1, device="cpu")
        found.append(pv.log_evidence(program.model, program.guide, data, samples=20).log_px)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    with pytest.raises(TypeError, match="is a dict; give the tensors themselves"):
        pv.amortize(model, {"x": x, "z": y})
