"""`pyro-vae certify`: what it writes, where it is shown, when it is left out."""

import json
import shutil

import pytest

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.runs import certificate as certificates
from pyro_vae.runs.report import report_runs

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_FEW = ("--number", 6, "--samples", 100, "--temperatures", 6, "--chains", 4)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("certified")
    small = ("--epochs", 1, "--hidden", 8, "--latent-dim", 2)
    assert run("fit", "--out", root / "plain", *small) == 0
    assert run("fit", "--out", root / "other", *small, "--seed", 1) == 0
    assert run("certify", root / "plain", *_FEW) == 0
    return root / "plain"


def test_it_is_that_of_the_model(folder):
    found = json.loads((folder / "certificate.json").read_text())
    loaded = pv.load_run(folder)
    certificate = pv.certify(
        loaded.vae.model,
        loaded.vae.guide,
        pv.load("digits").test,
        number=6,
        samples=100,
        annealing=pv.Annealing(temperatures=6, chains=4),
        seed=0,
    )
    assert found["gap"] == pytest.approx(certificate.gap[0], abs=1e-9)
    assert found["lower"] == pytest.approx(certificate.lower.mean().item(), abs=1e-9)
    assert found["within"] == pytest.approx(certificate.within, abs=1e-9)
    assert found["model_sha256"] == loaded.sha256
    settings = ("number", "samples", "temperatures", "chains", "method", "seed")
    assert [found[name] for name in settings] == [6, 100, 6, 4, "auto", 0]


def test_what_it_prints(folder, capsys):
    assert run("certify", folder, *_FEW) == 0
    said = capsys.readouterr().out
    assert "6 data simulated from the model" in said
    assert f"saved to {folder / 'certificate.json'}" in said


def test_report_and_card_state_it(folder, tmp_path):
    found = json.loads((folder / "certificate.json").read_text())
    gap = f"{found['gap']:.3f} ± {found['gap_error']:.3f} nats".replace("-", "\N{MINUS SIGN}")
    page = report_runs([folder], tmp_path / "page.html", number=5).read_text()
    assert "certified gap" in page
    assert gap in page
    card = (pv.runs.export_run(folder, tmp_path / "out") / "README.md").read_text()
    assert "certified mean" in card
    assert gap in card


def test_one_of_other_parameters_is_left_out(folder, tmp_path):
    other = shutil.copytree(folder.parent / "other", tmp_path / "other")
    shutil.copy(folder / "certificate.json", other)
    assert certificates.stored_certificate(pv.load_run(other)) is None
    assert "certified gap" not in report_runs([other], tmp_path / "page.html", number=5).read_text()


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "{}", '{"gap": "wide"}', "4"])
def test_a_file_that_is_none(folder, tmp_path, content):
    own = shutil.copytree(folder, tmp_path / "run")
    loaded = pv.load_run(own)
    if content.startswith("{") and content.endswith("}"):
        content = json.dumps({**json.loads(content), "model_sha256": loaded.sha256})
    (own / "certificate.json").write_text(content)
    with pytest.raises(pv.CheckpointError, match=r"is not a certificate.*certify"):
        certificates.stored_certificate(loaded)


def test_a_folder_that_is_gone(folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "run")
    loaded = pv.load_run(own)
    shutil.rmtree(own)
    with pytest.raises(FileNotFoundError, match="deleted or moved"):
        certificates.save_certificate(loaded, None)
    assert not own.exists()


def test_labels_and_exposures_are_given_or_summed_out(tmp_path):
    small = ("--epochs", 1, "--hidden", 8, "--latent-dim", 2)
    assert run("fit", "--out", tmp_path / "c", *small, "--program", "conditional") == 0
    assert run("certify", tmp_path / "c", *_FEW) == 0
    assert run("fit", "--out", tmp_path / "s", *small, "--program", "semi-supervised") == 0
    for method in ("auto", "guide"):
        assert run("certify", tmp_path / "s", *_FEW, "--method", method) == 0
        assert (tmp_path / "s" / "certificate.json").exists()


def test_settings():
    with pytest.raises(ValueError, match="number"):
        certificates.CertificateSettings(number=1)
