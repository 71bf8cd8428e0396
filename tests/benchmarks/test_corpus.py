"""The harness classifies as it says; slow: Pyro's own programs get a number, or the true cause."""

import os
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.common.registry import lookup

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(_BENCHMARKS))

import corpus  # noqa: E402
import own_tests  # noqa: E402
from cases import CASES, Brought, Case  # noqa: E402
from cases.base import case, train  # noqa: E402
from cases.references import (  # noqa: E402
    by_enumeration,
    by_quadrature,
    by_traces,
    by_weights,
    exactly,
)

sys.path.remove(str(_BENCHMARKS))

_FOLDER = os.environ.get(corpus.FOLDER)


def _model(x):
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + shift, 0.5), obs=x)


def _guide(x):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, scale))


_X = torch.tensor([-1.0, 0.0, 0.7, 2.0])
_EXACT = dist.Normal(0.0, 1.25**0.5).log_prob(_X).double()


def _brought(**fields):
    given = {"model": _model, "guide": _guide, "data": (_X,), "reference": exactly(_EXACT)}
    return Brought(**given | fields)


def _case(make, **causes):
    return Case("fake", "", make, "", causes)


def _outcome(make, method="guide", limit=60.0, **causes):
    (verdict,) = corpus.judge(_case(make, **causes), None, [method], limit)
    return verdict


@pytest.mark.parametrize("method", corpus.METHODS)
def test_right(method):
    verdict = _outcome(lambda source: _brought(), method)
    assert verdict.outcome == "right", verdict.said


@pytest.mark.parametrize(
    "reference",
    [exactly(_EXACT + 0.1), exactly(_EXACT.sum()), exactly(_EXACT * float("nan")), None],
)
def test_number_that_disagrees_is_wrong(reference):
    assert _outcome(lambda source: _brought(reference=reference)).outcome == "wrong"


@pytest.mark.search
def test_doubted_number_is_flagged():
    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x + 2, 0.05))

    assert _outcome(lambda source: _brought(guide=narrow)).outcome == "flagged"


def _unmatched(x):
    with pyro.plate("data", len(x)):
        pyro.sample("other", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("causes", "outcome"),
    [({"*": "site"}, "refused"), ({"auto": "site"}, "misleading"), ({}, "misleading")],
)
def test_refusal_is_judged_by_its_words(causes, outcome):
    verdict = _outcome(lambda source: _brought(guide=_unmatched), **causes)
    assert verdict.outcome == outcome, verdict.said


def _of_python(x):
    int("nonsense")


def _of_a_call(x, missing):
    pass


def _of_the_package(x):
    lookup("thing", "nonsense", {})


@pytest.mark.parametrize(
    ("guide", "outcome"),
    [(_of_python, "foreign"), (_of_a_call, "foreign"), (_of_the_package, "refused")],
)
def test_only_a_raise_of_the_package_refuses(guide, outcome):
    verdict = corpus.judged(
        _case(lambda source: None, **{"*": "."}), "guide", lambda: guide(_X), 10.0
    )
    assert verdict.outcome == outcome, verdict.said
    assert ("[" in verdict.said) == (outcome == "foreign")


def test_time_limit():
    def work():
        start = time.process_time()
        try:
            while time.process_time() - start < 20:
                pass
        except Exception:  # an answer of its own does not take it
            return "right", ""
        return "right", ""

    verdict = corpus.judged(_case(lambda source: None), "guide", work, 0.2)
    assert verdict.outcome == "slow"
    assert verdict.seconds < 5


def test_training_of_another_function_is_wrong(monkeypatch):
    """As if ``as_program`` lost a constraint."""
    given = pv.as_program

    def shifted(x):
        _guide(x + 1.5)

    monkeypatch.setattr(pv, "as_program", lambda model, guide, *args: given(model, shifted, *args))
    verdict = _outcome(lambda source: _brought(), "fit")
    assert verdict.outcome == "wrong", verdict.said
    assert "Pyro's" in verdict.said


def test_references_agree_with_the_exact_value():
    torch.manual_seed(0)
    rows = [(row[None],) for row in _X]
    for found in (
        by_weights(_model, _guide, rows, samples=4000),
        by_traces(_model, _guide, (_X,), samples=1000, number=len(_X)),
        by_enumeration(_model, _guide, rows, samples=500),
    ):
        assert corpus.agree(found.value, found.error, _EXACT, torch.zeros(4)).all(), found
        assert (found.error < 0.1).all()
    whole = by_traces(_model, _guide, (_X,), samples=1000)
    assert corpus.agree(whole.value, whole.error, _EXACT.sum(), torch.zeros(1)).all()
    axis = torch.linspace(-9, 9, 500, dtype=torch.float64)
    other = torch.linspace(0, 1, 11, dtype=torch.float64)

    def log_joint(z, u):
        likelihood = dist.Normal(z[..., None], 0.5).log_prob(_X.double())
        return dist.Normal(0.0, 1.0).log_prob(z)[..., None] + likelihood

    torch.testing.assert_close(by_quadrature(log_joint, axis, other).value, _EXACT)


def test_training_moves_the_store():
    train(_model, _guide, (_X,), steps=20)
    assert pyro.param("shift") != 0


def test_a_name_is_entered_once():
    with pytest.raises(ValueError, match=r"there is a case 'vae\.py' already"):
        case("vae.py", "twice")(lambda source: None)


def test_unknown_name():
    with pytest.raises(ValueError, match="no case has 'nonsense'"):
        corpus.chosen(["nonsense"])
    assert [c.name for c in corpus.chosen(["vae.py"])] == [
        "vae.py",
        "cvae.py",
        "prediction of cvae.py",
    ]


def test_report_counts_what_it_says():
    verdicts = [
        corpus.Verdict("vae.py", "guide", "right", "1", 1.0),
        corpus.Verdict("vae.py", "auto", "wrong", "a | b", 1.0),
        corpus.Verdict("air.py", "guide", "refused", "ValueError: no.", 1.0),
    ]
    assert corpus.summary(verdicts)[0][:2] == ["guide", "1 of 2 (50%)"]
    assert corpus.summary(verdicts)[-1] == ["all", "1 of 3 (33%)", "0", "1", "0", "1", "0", "0"]
    text = corpus.report(verdicts)
    assert "- vae.py, `auto`, wrong: a \\| b\n" in text
    assert "- air.py, `guide`: ValueError: no.\n" in text
    assert "| vae.py | right | wrong | – | – |" in text


def test_failures_of_a_test_run(tmp_path):
    file = tmp_path / "results.xml"
    file.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.infer.test_a" name="good"/>'
        '<testcase classname="tests.infer.test_a.B" name="bad"><failure message="no\nmore"/>'
        "</testcase></testsuite></testsuites>"
    )
    assert corpus.failures(file) == {"test_a.B.bad": "no more"}


def test_objectives_take_parameters_of_pyro():
    elbo = own_tests.TraceELBO(num_particles=3, max_plate_nesting=2, vectorize_particles=True)
    assert (elbo.num_particles, elbo.max_plate_nesting) == (3, 3)  # one for the particles
    assert own_tests.Renyi(alpha=0.5, num_particles=4).num_particles == 4
    assert own_tests.EnumeratedELBO(max_plate_nesting=2).max_plate_nesting == 2


@pytest.mark.slow
@pytest.mark.search
@pytest.mark.skipif(
    not _FOLDER,
    reason=f"PYRO'S PROGRAMS ARE NOT TESTED: {corpus.FOLDER} is not set; it names the folder of a "
    "checkout of https://github.com/pyro-ppl/pyro",
)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_programs_of_pyro(name):
    """No number that disagrees, no traceback of others, and no refusal for another cause."""
    verdicts = corpus.judge(CASES[name], Path(_FOLDER).resolve(), corpus.METHODS, 120.0)
    bad = [f"{v.method}: {v.outcome}: {v.said}" for v in verdicts if v.outcome in corpus.BAD]
    assert not bad, "\n".join(bad)


def test_a_handler_left_by_a_stopped_program_is_taken_off():
    def stopped():
        with corpus.limited(60):
            pyro.poutine.trace().__enter__()  # stopped before it could leave
            raise corpus.OutOfTime

    with pytest.raises(corpus.OutOfTime):
        stopped()
    for _ in range(2):  # a trace that is still there would see the sites twice
        _model(_X)
