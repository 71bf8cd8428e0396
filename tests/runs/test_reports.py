"""Reports of run folders: what they are of, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.runs.report import report_runs

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_vae.UnreliableEvidence", "ignore:training made:pyro_vae.PyroVAEWarning"
)

_SMALL = ["--epochs", "1", "--hidden", "8", "--latent-dim", "2"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def _content(path):
    text = path.read_text()
    return text, json.loads(re.search(r'id="content">(.*?)</script>', text)[1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, options in {
        "plain": (),
        "mixed": ("--prior", "mixture", "--prior.components", 3),
        "two-layer": ("--program", "top-down", "--top-dim", 2),
    }.items():
        assert run("fit", "--out", root / name, *_SMALL, *options) == 0
    shutil.copytree(root / "plain", root / "bare")
    for name in ("plain", "mixed"):
        assert run("evaluate", root / name, "--samples", 30, "--number", 40) == 0
    return root


def test_a_report_of_several_runs(folders, tmp_path, capsys):
    out = tmp_path / "pages" / "r.html"
    names = ("plain", "bare", "mixed", "two-layer")
    given = [folders / name for name in names]
    assert run("report", *given, "--out", out, "--number", 50) == 0
    assert capsys.readouterr().out.strip() == f"open {out}"
    text, content = _content(out)
    assert {model["name"] for model in content["models"]} == set(names)
    ranked = [row["name"] for row in content["comparison"]]
    assert set(ranked) == {"plain", "mixed"}
    assert [model["name"] for model in content["models"]][:2] == ranked
    assert content["data"]["number"] == 50
    by_name = {model["name"]: model for model in content["models"]}
    assert by_name["plain"]["evidence"]["number"] == 40  # fewer than there are data in the page
    assert by_name["bare"]["evidence"] is None
    assert by_name["bare"]["live"] is not None
    assert by_name["two-layer"]["live"] is None
    assert "a HierarchicalVAE" in by_name["two-layer"]["reason"]
    assert f"pyro-vae evaluate {folders / 'bare'}" in text
    stored = json.loads((folders / "plain" / "metrics.json").read_text())
    assert f"{stored['log_px']:.2f}".replace("-", "−") in text
    assert stored["data_sha256"][:12] in text
    assert not re.search(r'(src|href)="(?!#)', text)


def test_a_folder_of_runs(folders, tmp_path):
    study = tmp_path / "study"
    for name, seed in (("plain", 0), ("plain", 1), ("mixed", 0)):
        shutil.copytree(folders / name, study / name / f"seed-{seed}")
    _, content = _content(report_runs([study], tmp_path / "r.html", number=20))
    names = {model["name"] for model in content["models"]}
    assert names == {"plain/seed-0", "plain/seed-1", "mixed/seed-0"}


def test_what_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        report_runs([], tmp_path / "r.html")
    static = folders / "static"
    assert run("fit", "--out", static, *_SMALL, "--binarize", "threshold") == 0
    with pytest.raises(ValueError, match=r"are not those of .*plain.*make a report of each"):
        report_runs([folders / "plain", static], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_data_that_have_changed_since(tmp_path):
    path = tmp_path / "x.npy"
    generator = np.random.default_rng(0)
    np.save(path, generator.normal(size=(120, 3)))
    out = tmp_path / "r"
    assert run("fit", "--data", path, "--likelihood", "normal", "--out", out, *_SMALL) == 0
    assert run("evaluate", out, "--samples", 30) == 0
    _, content = _content(report_runs([out], tmp_path / "r.html"))
    assert content["data"]["values"]["kind"] == "float32"
    np.save(path, generator.normal(size=(120, 3)))
    with (
        pytest.warns(pv.PyroVAEWarning, match="has changed since the run"),
        pytest.raises(ValueError, match=r"is of other data than .*pyro-vae evaluate .*again"),
    ):
        report_runs([out], tmp_path / "r.html")
