"""The situations are posed exactly, and the table counts what it says."""

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine

from pyro_vae.common.registry import lookup

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(_BENCHMARKS))

import torture  # noqa: E402
from situations import SITUATIONS  # noqa: E402
from situations.base import situation  # noqa: E402
from situations.gaussians import LinearGaussian  # noqa: E402

sys.path.remove(str(_BENCHMARKS))

_DRAWS, _DATA = 20_000, 8


def _prior_monte_carlo(posed):
    """Log p(x) of the first data by draws from the model alone, with standard errors and ESS."""
    data = [argument[:_DATA] for argument in posed.data]
    with poutine.trace() as traced, pyro.plate("draws", _DRAWS, dim=-4):
        posed.model(*data)
    traced.trace.compute_log_prob()
    total = torch.zeros(_DRAWS, min(_DATA, len(data[0])), dtype=torch.float64)
    for site in traced.trace.nodes.values():
        if site["type"] == "sample" and site["is_observed"] and not site["name"].startswith("_"):
            dims = {frame.name: frame.dim for frame in site["cond_indep_stack"]}
            log_prob = site["log_prob"] / site["scale"]
            if "mask" in posed.options:
                mask = posed.options["mask"][:_DATA].reshape(site["value"].shape)
                log_prob = (site["fn"].base_dist.log_prob(site["value"]) * mask).sum(-1)
            log_prob = log_prob.double().movedim(dims["data"], -1)
            total += log_prob.reshape(_DRAWS, -1, log_prob.shape[-1]).sum(1)
    log_px = total.logsumexp(0) - math.log(_DRAWS)
    relative = (total - log_px).exp()
    return log_px, relative.std(0) / math.sqrt(_DRAWS), _DRAWS / relative.square().mean(0)


# The others have too few draws near the posterior; all of them are linear Gaussians.
_BY_DRAWS = [
    name
    for name in SITUATIONS
    if not re.search(r"d = (10|20|50|100|200|500)$|d = 10,|sd 0.001", name)
]


@pytest.mark.parametrize("name", _BY_DRAWS)
def test_exact_value_is_that_of_draws_from_the_model(name):
    posed = SITUATIONS[name].build()
    log_px, error, ess = _prior_monte_carlo(posed)
    exact = posed.exact[:_DATA]
    enough = ess > 100
    assert enough.sum() >= min(2, len(exact))
    # Some 560 comparisons; the rest is float32's rounding of boundaries and of large counts.
    assert ((log_px - exact).abs() < 5 * error + 2e-3)[enough].all(), (log_px - exact, error)


@pytest.mark.parametrize(("d", "noise"), [(1, 1.0), (10, 0.3), (200, 1.0)])
def test_linear_gaussian_by_two_formulas(d, noise):
    """p(x) = p(z) p(x | z) / p(z | x) at any z, here one posterior deviation from its mean."""
    torch.manual_seed(0)
    lg = LinearGaussian(d, noise=noise)
    x = lg.sample(5)
    posterior = lg.posterior(x)
    z = posterior.mean + lg.tril.sum(-1)
    other = lg.prior().log_prob(z) + lg.likelihood(z).log_prob(x) - posterior.log_prob(z)
    torch.testing.assert_close(other.double(), lg.log_px(x), rtol=0, atol=5e-3)


def test_a_seed_gives_the_same_data_and_leaves_the_random_state():
    situation = SITUATIONS["logit, ten items"]
    before = torch.get_rng_state()
    first, again, other = (situation.build(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.data[0], again.data[0])
    assert not torch.equal(first.data[0], other.data[0])


def _outcome(error, stated, flagged=False, **fields):
    error = torch.as_tensor(error, dtype=torch.float64)
    return torture.Outcome(
        "s",
        "guide",
        1.0,
        error=error,
        stated=torch.full_like(error, stated),
        flagged=torch.full_like(error, flagged).bool(),
        weights=torch.ones_like(error),
        **fields,
    )


def test_silent_is_wrong_and_not_flagged():
    error = [0.0, 0.04, -0.042, math.nan, -math.inf]
    assert _outcome(error, 0.01).silent.tolist() == [False, False, True, True, True]
    assert not _outcome(error, 0.01, flagged=True).silent.any()
    assert _outcome([0.0009, 0.0011], 0.0).silent.tolist() == [False, True]  # the allowance


@pytest.mark.parametrize(
    ("error", "warned", "flagged", "silent"),
    [
        (-0.05, False, False, True),
        (0.02, False, False, False),  # less than 4 errors
        (-0.05, True, False, False),
        (-0.05, False, True, False),
    ],
)
def test_silent_mean(error, warned, flagged, silent):
    outcome = _outcome(
        [-0.05, -0.05], 0.01, flagged, warned=warned, mean_error=error, mean_stated=0.007
    )
    assert outcome.silent_mean == silent


def _of_the_package(x):
    lookup("thing", "nonsense", {})


def _of_python(x):
    int("nonsense")


def _of_a_slip(x):
    raise TypeError("out of order")


@pytest.mark.parametrize(
    ("guide", "refused"), [(_of_the_package, True), (_of_python, False), (_of_a_slip, False)]
)
def test_only_the_package_refuses(guide, refused):
    situation = SITUATIONS["discrete latent alone"]
    outcome = torture.evaluate(situation, "guide", replace(situation.build(), guide=guide))
    assert (bool(outcome.refusal), bool(outcome.failure)) == (refused, not refused)
    assert not outcome.answered
    assert not outcome.silent_mean
    cells = dict(zip(torture.HEAD, torture.row(outcome), strict=True))
    assert cells["bias"] == ("refused" if refused else "FAILED")
    counted = torture.summary_row("guide", [outcome])
    assert counted[torture.SUMMARY_HEAD.index("failed")] == str(int(not refused))


def test_missed_mode_shows_in_the_table():
    """The guide on one of two equal modes is log 2 low, which some data do not say."""
    situation = SITUATIONS["two modes 50%, d = 10, guide on one"]
    outcome = torture.evaluate(situation, "guide", situation.build())
    assert outcome.error.mean() == pytest.approx(-math.log(2), abs=0.02)
    cells = dict(zip(torture.HEAD, torture.row(outcome), strict=True))
    assert float(cells["bias"]) == pytest.approx(-math.log(2), abs=0.02)
    assert float(cells["silent"].strip("%")) + float(cells["flagged"].strip("%")) >= 99


def test_unknown_situation():
    with pytest.raises(ValueError, match="no situation has 'nonsense'"):
        torture.chosen(["nonsense"], short=False)


@pytest.mark.slow
def test_short_command(tmp_path):
    out = tmp_path / "table.md"
    command = [sys.executable, str(_BENCHMARKS / "torture.py"), "--short", "--out", str(out)]
    env = {**os.environ, "PYTHONPATH": str(_BENCHMARKS.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")]
    table = [row for row in rows if len(row) == len(torture.HEAD) and row[0] != "| situation"]
    short = [s.name for s in torture.chosen([], short=True)]
    assert [row[0].strip("| ") for row in table] == [name for name in short for _ in torture.CHEAP]
    exact = next(row for row in table if "guide exact, d = 10" in row[0])
    assert float(exact[2]) == 0.0
    assert "more than 0.5% silent with laplace:" in done.stdout


def test_rows_that_miss_the_goal_say_how():
    """1 of 200 silent data are as many as the goal allows; of 100, too many."""
    stated = [0.0] * 199
    met, missed = _outcome([*stated, 0.5], 0.01), _outcome([*stated[:99], 0.5], 0.01)
    assert torture.misses([met, missed], "guide") == [missed]
    (line,) = torture.silent_rows([met, missed], "guide")
    assert line == (
        "s: 1.0% silent, high by 0.500 nats or 50 stated errors (medians); none is flagged; "
        "without a warning"
    )
    lost = _outcome([-0.5, math.nan, 0.5], 0.01, doubts=("missed",), warned=True)
    assert torture.reason(lost) == (
        "1 have no finite estimate or error; low or high by 0.500 nats or 50 stated errors "
        "(medians); others are flagged: missed; with a warning"
    )


def test_report_is_a_document():
    """Its parts in their order; every situation once, among its kind; every column explained."""
    names = ["discrete latent alone", "guide exact, d = 10", "logit, ten items"]
    outcomes = [
        replace(_outcome([0.0, 0.5], 0.01), situation=name, method=method)
        for name in names
        for method in ("guide", "auto")
    ]
    outcomes[0] = replace(outcomes[0], refusal="ValueError: no.")
    text = torture.report(outcomes, ["guide", "auto"], seed=3)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    kinds = list(dict.fromkeys(SITUATIONS[name].kind for name in names))
    assert len(kinds) == 3
    middle = ["Summary", "How to read the tables", *kinds]
    assert heads == [heads[0], *middle, "Rows that miss the goal", "Refused or failed"]
    assert "seed 3" in text
    assert "`auto` meets the goal in 0 of the 3 situations that it answers." in text
    goal = text.partition("## Rows that miss the goal")[2]
    assert goal.index("`auto`:") < goal.index("`guide`:")
    assert all(text.count(f"- *{name}*: {SITUATIONS[name].tries}\n") == 1 for name in names)
    assert "- discrete latent alone, `guide`: ValueError: no.\n" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):  # no cell breaks a table
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert all(f"| {column} | " in text for column in torture.COLUMNS)


def test_a_name_is_entered_once():
    with pytest.raises(ValueError, match="there is a situation 'N = 1' already"):
        situation("N = {n}", "twice", {"n": 1})(lambda n: None)
