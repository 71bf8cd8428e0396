"""A compiled step is the plain step: loss, gradients, random numbers, whole runs."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.compiled import (
    CompiledGradients,
    Gradients,
    compile_function,
    state_of,
)
from pyro_vae.compiled.functions import reason
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives import objective_of
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_OPTIONS = {
    "vamp": {"prior_components": 6},
    "mixture": {"prior_components": 6},
    "exemplar": {"prior_components": 6},
}


def _vae(digits, **options):
    config = pv.Config(latent_dim=3, hidden=(16,), **options)
    return pv.VAE.from_config(config, event_shape=(8, 8), data=digits.train.x)


def _both(vae, objective, *batch, kl_weight=0.7, precision="float32"):
    """ELBO and gradients of the plain and of the compiled step, on the same noise."""
    results = []
    for gradients in (
        Gradients(vae, objective),
        CompiledGradients(vae, objective, precision=precision),
    ):
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("error", pv.PyroVAEWarning)  # no falling back
            for _ in range(2):  # the second call of the compiled one compiles nothing
                torch.manual_seed(3)
                elbo = gradients(*batch, kl_weight=kl_weight)
        results.append((elbo, [p.grad for p in vae.parameters()]))
    return results


@pytest.mark.parametrize(
    ("options", "objective"),
    [
        ({}, pv.ELBO()),
        ({"prior": "vamp", "posterior": "full"}, pv.ELBO(particles=2, gradient="stl")),
        ({"prior": "mixture"}, pv.IWAE(gradient="dreg")),
        pytest.param(
            {"prior": "flow", "network": "conv", "hidden": (4,)}, pv.ELBO(), marks=pytest.mark.slow
        ),
        pytest.param({"posterior": "flow"}, pv.Renyi(gradient="dreg"), marks=pytest.mark.slow),
    ],
    ids=["plain", "vamp-stl", "mixture-dreg", "flow-conv", "posterior-flow-renyi"],
)
def test_is_the_plain_step(digits, options, objective):
    name = options.get("prior")
    settings = {"hidden": (16,), **options, **_OPTIONS.get(name, {})}
    config = pv.Config(latent_dim=3, **settings)
    vae = pv.VAE.from_config(config, event_shape=(8, 8), data=digits.train.x).double()
    x = digits.train.x[:12].double()
    plain, compiled = _both(vae, objective, x)
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-10, atol=0)
    for mine, reference in zip(compiled[1], plain[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


_EVERY = [
    *({"prior": name} for name in PRIORS),
    *({"posterior": name} for name in POSTERIORS),
    *({"network": name} for name in NETWORKS),
    *({"likelihood": name} for name in LIKELIHOODS if name != "columns"),
    *({"program": name} for name in ("bottom-up", "top-down")),
    *({"objective": "elbo", "gradient": name} for name in ("reparameterized", "stl")),
    {"objective": "elbo", "kl": "analytic"},
    {"objective": "elbo", "free_bits": 0.1},
    *(
        {"objective": objective, "particles": 3, "gradient": name}
        for objective in ("iwae", "renyi")
        for name in ("reparameterized", "stl", "dreg")
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", _EVERY, ids=lambda options: "-".join(map(str, options.values()))
)
def test_every_part_is_the_plain_step(digits, options):
    """Float64: 1e-10 of the ELBO and 1e-8 of the gradients, as Pyro's handlers compute them."""
    settings = {"hidden": (16,), **options, **_OPTIONS.get(options.get("prior"), {})}
    if options.get("network") in ("conv", "residual"):
        settings["hidden"] = (4,)
    config = pv.Config(latent_dim=4, **settings)
    x = digits.train.x[:12]
    program = pv.build_program(config, event_shape=(8, 8), data=digits.train.x).double()
    plain, compiled = _both(program, objective_of(config), x.double())
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-10, atol=0)
    for mine, reference in zip(compiled[1], plain[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


def test_float32_with_fast_products(digits):
    """Whichever matrix product is the faster here: 1e-5."""
    vae = _vae(digits)
    plain, compiled = _both(vae, pv.ELBO(), digits.train.x[:64])
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-5, atol=0)
    for mine, reference in zip(compiled[1], plain[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_labels_summed_out(digits):
    config = pv.Config(latent_dim=3, hidden=(16,))
    program = pv.SemiSupervisedVAE.from_config(config, event_shape=(8, 8), classes=10).double()
    y = torch.tensor([3, 1, -1, -1, 0, 9])
    plain, compiled = _both(program, pv.EnumeratedELBO(), digits.train.x[:6].double(), y)
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-10, atol=0)
    for mine, reference in zip(compiled[1], plain[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


@pytest.mark.filterwarnings("error::pyro_vae.PyroVAEWarning")
@pytest.mark.parametrize("objective", [pv.IWAE(particles=3), pv.Renyi(particles=3)])
def test_steps_of_an_objective_that_no_fit_has_prepared(digits, objective):
    """Counting the plates the first time is no change of the programs."""
    vae = _vae(digits)
    step = pv.CompiledStep(vae, objective, torch.optim.Adam(vae.parameters()))
    for _ in range(2):
        assert step(digits.train.x[:8]).isfinite()
    assert step.gradients._run is not None


def test_fit_gives_the_same_run(digits):
    """Same seed, same noise: the histories agree; the last, smaller batch takes the plain path."""
    histories = []
    for compiled in (False, True):
        vae = _vae(digits)
        data = digits.train.head(250)
        histories.append(pv.fit(vae, data, digits.valid, epochs=2, compiled=compiled))
    for column in ("train_elbo", "valid_elbo"):
        one, two = (history.columns()[column] for history in histories)
        assert one == pytest.approx(two, rel=1e-4)


def test_compiles_for_full_batches(digits):
    """Whatever comes first: a run resumed before its last, smaller batch is the same run."""
    vae = _vae(digits)
    gradients = CompiledGradients(vae, pv.ELBO(), rows=20)
    with pyro.validation_enabled(False):
        gradients(digits.train.x[:7], kl_weight=1.0)
        assert gradients.shapes is None
        gradients(digits.train.x[:20], kl_weight=1.0)
    assert gradients.shapes == [(20, 8, 8)]


def _same_evidence(program, x, **options):
    one, two = (
        pv.log_evidence(program.model, program.guide, x, compiled=compiled, **options)
        for compiled in (False, True)
    )
    torch.testing.assert_close(one.log_px, two.log_px, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.standard_error, two.standard_error, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"method": "auto", "chunk": 7}], ids=["guide", "auto"])
def test_evidence_is_the_same(digits, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", pv.PyroVAEWarning)  # no falling back
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        _same_evidence(_vae(digits), digits.test.x[:130], samples=150, **options)  # three blocks


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [options for options in _EVERY if "objective" not in options],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_evidence_of_every_part_is_the_same(digits, options):
    settings = {"hidden": (16,), **options, **_OPTIONS.get(options.get("prior"), {})}
    if options.get("network") in ("conv", "residual"):
        settings["hidden"] = (4,)
    config = pv.Config(latent_dim=4, **settings)
    program = pv.build_program(config, event_shape=(8, 8), data=digits.train.x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pv.PyroVAEWarning)
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        _same_evidence(program, digits.test.x[:20], samples=70)


def test_evidence_in_reduced_precision_reports_its_bias(digits, tmp_path):
    vae, x = _vae(digits), digits.test.x[:70]
    whole, reduced = (
        pv.log_evidence(vae.model, vae.guide, x, samples=128, compiled=True, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    added = (reduced.log_px - whole.log_px)[:64]  # the measured ones; the same draws
    assert 1e-6 < added.abs().max() < 0.2
    assert reduced.precision_bias == pytest.approx(added.mean().item(), abs=1e-6)
    assert reduced.precision_bias_error == pytest.approx(added.std().item() / 8, rel=1e-4)
    assert abs(reduced.precision_bias) < 0.02
    assert "bfloat16 products, which add" in str(reduced)
    assert (whole.precision_bias, whole.precision_bias_error) == (0, 0)
    again = pv.evidence.Evidence.load(reduced.save(tmp_path / "evidence.json"))
    assert again.precision_bias == reduced.precision_bias
    with pytest.raises(ValueError, match="add compiled=True"):
        pv.log_evidence(vae.model, vae.guide, x, precision="bfloat16")


class _ReadsValues(nn.Module):
    """A program whose control flow depends on the data."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x):
        scale = 2.0 if x.sum().item() > 0 else 1.0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + self.loc, 1.0).to_event(1))


def test_falls_back_and_says_why():
    program, x = _ReadsValues(), torch.randn(50, 1)
    twin = copy.deepcopy(program)
    with pytest.warns(
        pv.PyroVAEWarning, match=r"training goes on without compilation: .*data-dependent"
    ):
        pv.fit(program, x, epochs=2, compiled=True)
    pv.fit(twin, x, epochs=2)
    assert torch.equal(program.loc, twin.loc)
    with pytest.warns(pv.PyroVAEWarning, match="evaluation goes on without compilation"):
        one = pv.log_evidence(program.model, program.guide, x, samples=20, compiled=True)
    assert torch.equal(one.log_px, pv.log_evidence(twin.model, twin.guide, x, samples=20).log_px)


def test_no_compiler_on_the_machine(digits, monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # or it would find what it needs
    no_compiler = config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with (
        no_compiler,
        pytest.warns(pv.PyroVAEWarning, match=r"training goes on .*C\+\+ compiler"),
    ):
        history = pv.fit(_vae(digits), digits.train.head(100), epochs=2, compiled=True)
    assert len(history.epochs) == 2


def test_the_trial_leaves_running_statistics_alone():
    program, x = _ReadsValues(), torch.randn(50, 1)
    program.statistics = nn.BatchNorm1d(1)
    guide = program.guide
    program.guide = lambda x: guide(program.statistics(x))
    gradients = CompiledGradients(program, pv.ELBO())
    with pyro.validation_enabled(False), pytest.warns(pv.PyroVAEWarning, match="without"):
        gradients(x, kl_weight=1.0)
    assert program.statistics.num_batches_tracked == 1  # of the step itself


def test_running_statistics_run_as_plain():
    program, x = _ReadsValues(), torch.randn(50, 1)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(program.statistics(x) + program.loc, 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    program.model, program.guide = model, guide
    buffers = []
    for kind in (Gradients, CompiledGradients):
        program.statistics = nn.BatchNorm1d(1)
        gradients = kind(program, pv.ELBO())
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("error", pv.PyroVAEWarning)
            for _ in range(3):
                gradients(x)
        buffers.append([buffer.clone() for buffer in program.statistics.buffers()])
    torch.testing.assert_close(*buffers)
    assert buffers[0][2] == 3


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.ones(2)), factor

    def forward(self, x):
        product = self.weight * x * self.factor
        return product.sum(), product


def test_each_function_has_its_own_graph():
    """Two of the same shapes do not share what was compiled for the first."""
    modules = [_Times(2.0), _Times(3.0)]
    runs, x = [compile_function(module) for module in modules], torch.ones(2)
    results = [run(x, *state_of(m)) for run, m in zip(runs, modules, strict=True)]
    torch.testing.assert_close([product for _, product, _ in results], [2 * x, 3 * x])
    torch.testing.assert_close([gradients for *_, gradients in results], [[2 * x], [3 * x]])


def test_two_objectives_of_one_program(digits):
    vae, x = _vae(digits), digits.train.x[:12]
    biases = []
    for objective in (pv.ELBO(particles=3), pv.IWAE(particles=3)):
        plain, compiled = _both(vae, objective, x, kl_weight=1.0)
        for mine, reference in zip(compiled[1], plain[1], strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)
        biases.append(plain[1][-1])
    assert not torch.allclose(*biases, rtol=1e-3)


class _Shared(nn.Module):
    """One module at two places, and one tensor with two names."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.again = self.one
        self.other = nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x):
        result = self.other(self.again(self.one(x))) + self.shift
        return result.sum(), result


def test_shared_modules_and_tensors():
    module = _Shared()
    before = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    run, x = compile_function(module), torch.randn(4, 3)
    expected = module(x)
    given = [2 * tensor.detach() for tensor in state_of(module)]
    torch.testing.assert_close(run(x, *state_of(module))[:2], expected)
    doubled = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in state_of(doubled):
            tensor.mul_(2)
    torch.testing.assert_close(run(x, *given)[:2], doubled(x))
    after = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    assert after == before  # the module has its own tensors back
    assert all(type(t) in (nn.Parameter, torch.Tensor) for t in state_of(module))


def test_reason_is_one_line():
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = ValueError("the cause\nand its details")
    assert reason(wrapped) == "ValueError: the cause"


# -- programs of a user --------------------------------------------------------------------------


class _Tutorial(nn.Module):
    """A VAE as Pyro's tutorial writes it: modules registered in the store."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 6), nn.Linear(3, 64)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            logits = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x.flatten(1))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, scale.exp()).to_event(1))


@pytest.fixture
def store():
    pyro.clear_param_store()
    yield pyro.get_param_store()
    pyro.clear_param_store()


def test_step_of_the_tutorial_is_that_of_svi(digits, store):
    """Five steps with Pyro's own SVI and Adam, and five compiled ones, on the same noise."""
    svi_of, program, x = _Tutorial().double(), _Tutorial().double(), digits.train.x[:20].double()
    program.load_state_dict(svi_of.state_dict())
    loss = pyro.infer.Trace_ELBO()
    torch.manual_seed(0)
    scaled = [pyro.poutine.scale(fn, 1 / 20) for fn in (svi_of.model, svi_of.guide)]
    svi = pyro.infer.SVI(*scaled, pyro.optim.Adam({"lr": 1e-3}), loss)
    losses = [svi.step(x) for _ in range(5)]
    pyro.clear_param_store()
    torch.manual_seed(0)
    step = pv.CompiledStep(program, pv.ELBO(), torch.optim.Adam(program.parameters(), lr=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", pv.PyroVAEWarning)
        elbos = [step(x).item() for _ in range(5)]
    assert [-elbo / 20 for elbo in elbos] == pytest.approx(losses, rel=1e-10)
    for one, two in zip(svi_of.parameters(), program.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


def test_functions_with_stored_parameters(store):
    """``pyro.param`` with a constraint: trained in place, in the store, as the module's own."""
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double() * 3 + 1
    net = nn.Linear(1, 1).double()

    def model(x):
        loc = pyro.param("loc", torch.zeros(1).double())
        scale = pyro.param(
            "scale", lambda: torch.ones(1).double(), constraint=dist.constraints.positive
        )
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        width = pyro.param("width", torch.ones(1).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), width).to_event(1))

    program = pv.as_program(model, guide, x[:2])
    assert len(list(program.parameters())) == 5
    plain, compiled = _both(program, pv.ELBO(), x)
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-10, atol=0)
    for mine, reference in zip(compiled[1], plain[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)
    pv.fit(program, x, epochs=300, learning_rate=0.1, schedule="one-cycle", compiled=True)
    spread = x.var(correction=0)  # likelihood is highest at scale² + ½² = variance
    assert store["loc"].item() == pytest.approx(x.mean().item(), abs=0.1)
    assert store["scale"].item() == pytest.approx((spread - 0.25).sqrt().item(), rel=0.1)
    exact = dist.Normal(store["loc"], (store["scale"] ** 2 + 0.25).sqrt()).log_prob(x).sum(-1)
    evidence = pv.log_evidence(model, guide, x[:50], samples=2000)
    torch.testing.assert_close(evidence.log_px, exact[:50].detach(), rtol=0, atol=0.05)


def test_functions_without_parameters_are_refused():
    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).to_event(0), obs=x)

    with pytest.raises(ValueError, match="no parameters"):
        pv.as_program(program, lambda x: None, torch.zeros(2))


# -- precision -----------------------------------------------------------------------------------


def test_bfloat16_rounds_products_only(digits):
    """Gradients to the 8 bits of the factors; parameters, moments and the ELBO in float32."""
    vae, x = _vae(digits), digits.train.x[:200]
    plain, compiled = _both(vae, pv.ELBO(), x, precision="bfloat16")
    assert compiled[0].dtype == torch.float32
    assert compiled[0].item() == pytest.approx(plain[0].item(), rel=2e-3)
    assert compiled[0] != plain[0]
    for mine, reference in zip(compiled[1], plain[1], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - reference).norm() < 0.03 * reference.norm()
    assert all(p.dtype == torch.float32 for p in vae.parameters())


def test_precision_wants_a_compiled_step(digits):
    with pytest.raises(ValueError, match="add compiled=True"):
        pv.fit(_vae(digits), digits.train, precision="bfloat16")
    with pytest.raises(ValueError, match="unknown precision 'half'; there are float32, bfloat16"):
        pv.fit(_vae(digits), digits.train, precision="half", compiled=True)
    with pytest.raises(ValueError, match="--compiled"):
        pv.Config(precision="bfloat16")
