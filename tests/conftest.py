"""Ground truths and rules that hold for every test."""

import importlib.util
import math
import os
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from report.browser import NAMES, Browser, found

import pyro_vae as pv
from pyro_vae.evidence import importance
from pyro_vae.evidence.result import Search

os.environ["OMP_NUM_THREADS"] = "1"  # one thread for each process, also of their children
torch.set_num_threads(1)


_NO_GPU = "there is no GPU here"
# What takes more than four seconds, and has quicker tests of the same beside it.
_SLOW = set((Path(__file__).parent / "slow.txt").read_text().split("\n"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what takes long as slow; leave out what needs a GPU where there is none."""
    for item in items:
        if item.nodeid in _SLOW:
            item.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=_NO_GPU))


def pytest_terminal_summary(terminalreporter):
    """Say what was not looked at."""
    missing = sum(
        _MISSING in str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])
    )
    if missing:
        terminalreporter.write_sep("!", f"{missing} tests of tests/report did not run: {_MISSING}")
    skipped = terminalreporter.stats.get("skipped", [])
    number = sum(_NO_GPU in str(report.longrepr) for report in skipped)
    if number:
        terminalreporter.write_sep("-", f"{_NO_GPU}: {number} tests of tests/gpu did not run")


@pytest.fixture(autouse=True)
def _no_global_state():
    """No test may change a validation flag, the dtype or Pyro's store, or draw unseeded."""
    pyro.clear_param_store()
    torch.manual_seed(1234)
    flags = (torch.distributions.Distribution._validate_args, torch.get_default_dtype())
    yield
    assert (torch.distributions.Distribution._validate_args, torch.get_default_dtype()) == flags


@pytest.fixture(autouse=True)
def _no_search(request, monkeypatch):
    """Evaluations leave out the search for missed mass, except in tests marked ``search``."""
    if "search" not in request.keywords:
        monkeypatch.setattr(
            importance, "look_for_missed", lambda *given: Search(skipped="in tests")
        )


@pytest.fixture
def no_unreliable_warning():
    """For estimates that are rough on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        yield


class LinearGaussian:
    """z ~ N(0, I_d), x | z ~ N(W z + b, s^2 I_D), with its exact posterior and log p(x)."""

    def __init__(self, latent_dim=3, event_dim=5, n=11, scale=0.7, seed=0):
        generator = torch.Generator().manual_seed(seed)
        double = {"generator": generator, "dtype": torch.float64}
        self.weight = torch.randn(event_dim, latent_dim, **double)
        self.bias = torch.randn(event_dim, **double)
        self.scale, self.latent_dim = scale, latent_dim
        z = torch.randn(n, latent_dim, **double)
        noise = torch.randn(n, event_dim, **double)
        self.x = z @ self.weight.T + self.bias + scale * noise
        eye = torch.eye(latent_dim, dtype=torch.float64)
        self.covariance = torch.linalg.inv(eye + self.weight.T @ self.weight / scale**2)
        marginal = self.weight @ self.weight.T + scale**2 * torch.eye(event_dim).double()
        self.log_px = torch.distributions.MultivariateNormal(self.bias, marginal).log_prob(self.x)

    def prior(self):
        zero = torch.zeros(self.latent_dim, dtype=torch.float64)
        return dist.Normal(zero, 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(z @ self.weight.T + self.bias, self.scale).to_event(1)

    def posterior(self, x, widen=1.0):
        mean = (x - self.bias) @ self.weight @ self.covariance / self.scale**2
        return dist.MultivariateNormal(mean, self.covariance * widen**2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    def wide_guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x, widen=1.3))

    def prior_guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior())


@pytest.fixture(scope="session")
def linear_gaussian():
    return LinearGaussian()


@pytest.fixture(scope="session")
def digits():
    return pv.load("digits")


@pytest.fixture
def small_config():
    return pv.Config(latent_dim=3, hidden=(16,), epochs=2)


def normal_log_prob(x, loc, scale):
    """Written out, so that a test need not trust a library."""
    return -0.5 * ((x - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def _script(path):
    """Fixture of an example's name: the script as a module."""

    @pytest.fixture(scope="session", name=path.stem)
    def script():
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return script


for _path in (Path(__file__).parent.parent / "examples").glob("*.py"):
    globals()[f"script_{_path.stem}"] = _script(_path)


_MISSING = (
    f"there is no Chromium here ({', '.join(NAMES)}), so nothing was seen of what the page "
    "computes; on Debian, `apt-get install chromium`"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if found() is None:
        pytest.skip(_MISSING)
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
