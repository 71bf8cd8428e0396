"""Random valid configs on random data through the public functions: a result, or a sentence."""

import warnings
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyro_vae as pv
from pyro_vae.common import options

_FAST = ("mlp", "gated")
_KINDS = {
    "bernoulli": ["binary"],
    "continuous-bernoulli": ["unit"],
    "normal": ["real", "unit", "constant"],
    "laplace": ["real"],
    "student-t": ["real", "constant"],
    "categorical": ["classes"],
    "binomial": ["classes"],
    "poisson": ["counts"],
    "negative-binomial": ["counts"],
}


def _data(kind, shape, rows):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(rows, *shape, generator=generator)
    return {
        "binary": noise.round(),
        "unit": noise,
        "real": torch.randn(rows, *shape, generator=generator),
        "classes": (noise * 5).floor(),
        "counts": (noise * 9).floor(),
        "constant": torch.ones(rows, *shape),
    }[kind]


@st.composite
def cases(draw):
    """A config, data that may or may not suit it, and what is asked of the model."""
    likelihood = draw(st.sampled_from(sorted(_KINDS)))
    kinds = _KINDS[likelihood] if draw(st.integers(0, 4)) else ["real", "counts", "unit"]
    chosen = {
        "prior": draw(st.sampled_from(["normal", "diagonal", "student-t", "mixture", "vamp"])),
        "likelihood": likelihood,
        "posterior": draw(st.sampled_from(["normal", "full", "low-rank"])),
        "network": draw(st.sampled_from(_FAST)),
        "objective": draw(st.sampled_from(get_args(options.ObjectiveName))),
        "gradient": draw(st.sampled_from(get_args(options.Gradient))),
        "latent_dim": draw(st.integers(1, 3)),
        "particles": draw(st.integers(1, 3)),
        "batch_size": draw(st.sampled_from([1, 7, 100])),
        "learning_rate": draw(st.sampled_from([1e-3, 1e-1, 1e9])),
        "beta": draw(st.sampled_from([0.0, 1.0, 50.0])),
        "hidden": (4,),
    }
    if likelihood in ("categorical", "binomial"):
        chosen["likelihood_levels" if likelihood == "categorical" else "likelihood_count"] = 5
    if chosen["prior"] in ("mixture", "vamp"):
        chosen["prior_components"] = draw(st.integers(1, 3))
    shape = draw(st.sampled_from([(1,), (3,), (4, 4), (5, 2), (3, 4, 4)]))
    x = _data(draw(st.sampled_from(kinds)), shape, draw(st.sampled_from([1, 2, 20])))
    ask = draw(st.sampled_from(["evidence", "auto", "posterior", "analysis", "check", "sample"]))
    return chosen, x, ask


def _asked(vae, x, ask):
    """The numbers that a public function gives."""
    pair = vae.model, vae.guide
    if ask in ("evidence", "auto"):
        method = "guide" if ask == "evidence" else "auto"
        found = pv.log_evidence(*pair, x[:4], samples=30, method=method, search=False)
        return [found.log_px, found.elbo]
    if ask == "posterior":
        return list(pv.sample_posterior(*pair, x[:4], 5, samples=30, search=False).values.values())
    if ask == "analysis":
        return list(pv.analysis.active_units(*pair, x, samples=5).variance.values())
    if ask == "check":
        found = pv.check.predictive(*pair, x, replicates=20, samples=100, latents="prior")
        return [torch.tensor([check.p_value for check in found.checks])]
    return [vae.sample(3, seed=0), vae.reconstruct(x)]


def _named(error):
    """Whether an error is one of the package's classes, with a sentence of its own."""
    frame, ours = error.__traceback__, False
    while frame is not None:
        ours = "pyro_vae" in frame.tb_frame.f_code.co_filename
        frame = frame.tb_next
    kinds = (ValueError, TypeError, NotImplementedError, FloatingPointError, pv.NotEnoughMemory)
    return ours and isinstance(error, kinds)


def _look(case):
    chosen, x, ask = case
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            config = pv.Config(**chosen, epochs=1)
            vae = pv.build_program(config, event_shape=x.shape[1:], data=x)
            objective = pv.objectives.objective_of(config)
            pv.fit(
                vae,
                x,
                objective=objective,
                device="cpu",
                progress=False,
                epochs=1,
                **{name: chosen[name] for name in ("batch_size", "learning_rate", "beta")},
            )
            numbers = _asked(vae, x, ask)
        except Exception as error:
            if not _named(error):
                raise
            return
    named = [w for w in said if issubclass(w.category, pv.PyroVAEWarning)]
    foreign = [str(w.message) for w in said if not issubclass(w.category, pv.PyroVAEWarning)]
    assert not foreign
    finite = all(bool(value.isfinite().all()) for value in numbers)
    assert finite or named


_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(
    max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=_QUIET
)
@given(cases())
def test_every_outcome_is_a_result_or_a_sentence(case):
    _look(case)


@pytest.mark.slow
@settings(
    max_examples=500, derandomize=True, deadline=None, database=None, suppress_health_check=_QUIET
)
@given(cases())
def test_five_hundred_outcomes_are_results_or_sentences(case):
    _look(case)
