"""A study swaps one setting, and says what that changes."""

import json
import warnings

import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.common.tables import align
from pyro_vae.runs.results import EVIDENCE

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_CONFIG = pv.Config(epochs=2, hidden=(16,), latent_dim=2, prior_components=4)


def _study(out, **options):
    said = []
    result = pv.study(
        "prior",
        ["normal", "mixture"],
        _CONFIG,
        out,
        samples=options.pop("samples", 50),
        number=40,
        say=said.append,
        **options,
    )
    return result, said


def test_study(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the table says what is unreliable
        result, said = _study(tmp_path)
    names = [row.name for row in result.comparison.rows]
    assert set(names) == {"normal", "mixture"}
    assert len(said) == 4
    # an option of the part goes to the values that take it
    assert pv.load_run(tmp_path / "normal").config.prior_components is None
    assert pv.load_run(tmp_path / "mixture").config.prior_components == 4
    lines = str(result).splitlines()
    assert lines[0].split()[0] == "model"
    assert all(word in lines[0] for word in ("log p(x)", "ELBO", "doubtful", "rate", "active"))
    assert lines[2].startswith(names[0])
    assert len({line.index("of 2") for line in lines[2:4]}) == 1  # aligned
    stored = json.loads((tmp_path / "study.json").read_text())
    assert stored["usage"]["normal"]["latents"] == 2
    assert [path.name for path in result.figures] == ["comparison.png", "curves.png"]
    assert all(path.stat().st_size > 5000 for path in result.figures)
    # the numbers are those of the runs by themselves
    run, test = pv.load_run(tmp_path / "normal"), pv.load("digits").test
    spent = pv.analysis.rate(run.vae.model, run.vae.guide, test)
    assert result.usage["normal"].rate == pytest.approx(spent.rate)
    evidence = pv.log_evidence(
        run.vae.model, run.vae.guide, test.head(40), samples=50, method="auto"
    )
    row = next(row for row in result.comparison.rows if row.name == "normal")
    assert row.log_px == pytest.approx(evidence.mean().value, abs=1e-6)


@pytest.mark.slow
def test_resume_does_nothing_twice(tmp_path):
    first, _ = _study(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob(f"*/{EVIDENCE}")}
    again, said = _study(tmp_path, resume=True)
    assert str(again) == str(first)
    assert len(said) == 2  # no estimate was made again
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob(f"*/{EVIDENCE}")} == times
    more, said = _study(tmp_path, resume=True, samples=60)
    assert len(said) == 4
    assert more.comparison.samples == (60,)
    _, said = _study(tmp_path, resume=True, samples=60, search=False)
    assert len(said) == 4  # an estimate that was not searched is another one
    with pytest.raises(FileExistsError):
        _study(tmp_path)


def test_estimates_on_fewer_data_are_made_again(tmp_path):
    config = pv.Config(epochs=1, hidden=(8,))
    options = {"samples": 20, "method": "guide", "say": len}
    pv.study("latent_dim", [1, 2], config, tmp_path, number=30, **options)
    result = pv.study("latent_dim", [1, 2], config, tmp_path, resume=True, **options)
    assert result.comparison.number_of_data == 360


def test_options_go_to_the_values_that_take_them(tmp_path):
    config = pv.Config(epochs=1, hidden=(8,), latent_dim=2, alpha=0.3, particles=3)
    options = {"samples": 20, "number": 20, "say": len}
    pv.study("objective", ["elbo", "renyi"], config, tmp_path / "o", **options)
    assert pv.load_run(tmp_path / "o" / "elbo").config.alpha is None
    assert pv.load_run(tmp_path / "o" / "renyi").config.alpha == 0.3


def test_any_setting(tmp_path):
    config = pv.Config(epochs=1, hidden=(8,))
    result = pv.study("latent_dim", [1, 3], config, tmp_path, samples=20, number=20, say=len)
    assert {usage.latents for usage in result.usage.values()} == {1, 3}


def test_wrong_studies(tmp_path):
    with pytest.raises(ValueError, match=r"no setting 'priors'.*Did you mean 'prior'"):
        pv.study("priors", ["normal", "vamp"], _CONFIG, tmp_path)
    with pytest.raises(ValueError, match="two or more different values"):
        pv.study("prior", ["normal"], _CONFIG, tmp_path)
    with pytest.raises(ValueError, match="two or more different values"):
        pv.study("prior", ["normal", "normal"], _CONFIG, tmp_path)
    with pytest.raises(ValueError, match="'prior' cannot be 'vmp'"):
        pv.study("prior", ["normal", "vmp"], _CONFIG, tmp_path)
    with pytest.raises(ValueError, match="log p\\(x\\) of different data cannot be compared"):
        pv.study("binarize", ["static", "threshold"], _CONFIG, tmp_path)
    with pytest.raises(ValueError, match=r"no prior of .* takes prior_components"):
        pv.study("prior", ["normal", "laplace"], _CONFIG, tmp_path)
    with pytest.raises(ValueError, match="2000 pseudo-inputs"):  # before the first is trained
        pv.study("prior", ["normal", "vamp"], pv.Config(prior_components=2000), tmp_path)
    with pytest.raises(ValueError, match="with one particle is the ELBO"):
        pv.study("particles", [5, 1], pv.Config(objective="iwae", particles=5), tmp_path)
    assert not any(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    arguments = ["study", "latent-dim", "1", "2", "--out", str(tmp_path / "s"), "--epochs", "1"]
    arguments += ["--hidden", "8", "--samples", "20", "--number", "20"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "latent_dim 1: training" in out
    assert "comparison.png" in out
    assert cli.main(["study", "prior", "normal", "vmp", "--out", str(tmp_path / "t")]) == 1
    assert "prior cannot be 'vmp'" in capsys.readouterr().err


def test_two_layers_are_a_study_too(tmp_path):
    config = pv.Config(epochs=1, hidden=(8,), latent_dim=2)
    result = pv.study(
        "program", ["vae", "top-down"], config, tmp_path, samples=20, number=20, say=len
    )
    assert {usage.latents for usage in result.usage.values()} == {2, 3}
    assert torch.isfinite(torch.tensor([row.log_px for row in result.comparison.rows])).all()


def test_tables_align():
    lines = align([("model", "k̂"), ("a", "0.7"), ("longer", "12.25")])
    assert lines == ["model       k̂", "─" * 13, "a         0.7", "longer  12.25"]
