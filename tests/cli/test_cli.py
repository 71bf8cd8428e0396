import json
import re
import subprocess
import sys

import numpy as np
import pytest

from pyro_vae import cli
from pyro_vae.common.files import read_json

pytestmark = [
    pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence"),
    pytest.mark.filterwarnings("ignore:training made the model worse"),  # in two epochs
]

_SMALL = ["--epochs", "2", "--hidden", "16", "--latent-dim", "2"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_fit_evaluate_compare_sample_plot(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("fit", "--data", "digits", "--out", one, *_SMALL) == 0
    assert f"next: pyro-vae evaluate {one}" in capsys.readouterr().out
    assert run("fit", "--out", two, "--prior", "mixture", "--prior.components", 3, *_SMALL) == 0
    assert json.loads((two / "config.json").read_text())["prior_components"] == 3
    for folder in (one, two):
        assert run("evaluate", folder, "--samples", 100) == 0
    out = capsys.readouterr().out
    assert out.count("verdict   ") == 2
    assert "Monte-Carlo error" in out
    assert "bits/dim" in out
    metrics = json.loads((one / "metrics.json").read_text())
    assert metrics["samples"] == 100
    assert metrics["number_of_data"] == 360
    assert metrics["log_px"] > metrics["elbo"]
    assert len(metrics["data_sha256"]) == 64
    assert run("compare", one, two, "--json", tmp_path / "c.json") == 0
    out = capsys.readouterr().out
    assert "difference" in out
    assert str(one) in out
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert rows[0]["log_px"] >= rows[1]["log_px"]
    assert run("sample", one, "--number", 9) == 0
    assert np.load(one / "samples.npy").shape == (9, 8, 8)
    assert run("plot", one) == 0
    names = {path.name for path in (one / "figures").iterdir()}
    assert names == {
        "samples.png",
        "reconstructions.png",
        "interpolation.png",
        "curves.png",
        "latent.png",
        "manifold.png",
        "evidence.png",
    }
    assert all((one / "figures" / name).stat().st_size > 5000 for name in names)


def test_check(tmp_path, capsys):
    run("fit", "--out", tmp_path / "r", *_SMALL)
    few = ("--number", 40, "--replicates", 40, "--simulations", 50, "--samples", 100)
    assert run("check", tmp_path / "r", *few) == 0
    out = capsys.readouterr().out
    for text in (
        "told apart by a classifier",
        "too few replicates",
        "90 % covers",
        "z[1]",
        "check.json",
    ):
        assert text in out
    found = json.loads((tmp_path / "r" / "check.json").read_text())
    assert found["predictive"]["number_of_data"] == 40
    assert found["predictive"]["latents"] == "posterior"
    assert 0 < found["predictive"]["statistics"]["mean"]["p_value"] <= 1
    assert list(found["calibration"]["dimensions"]) == ["z[0]", "z[1]", "log p(x|z)"]
    for name in ("predictive", "calibration"):
        assert (tmp_path / "r" / "figures" / f"{name}.png").stat().st_size > 10_000
    assert run("check", tmp_path / "r", *few, "--latents", "prior") == 0
    assert "draws of the prior" in capsys.readouterr().out
    assert run("check", tmp_path / "r", "--simulations", 5) != 0
    assert "at least 50" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["conditional", "semi-supervised"])
def test_check_of_programs_with_labels(program, tmp_path, capsys):
    labels = ["--labels", 50] if program == "semi-supervised" else []
    run("fit", "--out", tmp_path / "r", "--program", program, *labels, *_SMALL)
    few = ("--number", 40, "--replicates", 40, "--simulations", 50, "--samples", 100)
    assert run("check", tmp_path / "r", *few, "--method", "guide") == 0
    assert "calibrated: guide" in capsys.readouterr().out
    assert run("check", tmp_path / "r", *few) == 0  # by auto


def test_evaluate_gives_the_same_numbers_whatever_the_chunk(tmp_path, capsys):
    assert run("fit", "--out", tmp_path / "r", *_SMALL) == 0
    values = []
    for chunk in (7, 64):
        assert run("evaluate", tmp_path / "r", "--samples", 50, "--chunk", chunk) == 0
        values.append(json.loads((tmp_path / "r" / "metrics.json").read_text())["log_px"])
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_resume(tmp_path, capsys):
    out = tmp_path / "new"
    assert run("fit", "--out", out, "--resume", *_SMALL) == 0  # nothing there yet: a new run
    assert json.loads((out / "config.json").read_text())["latent_dim"] == 2
    assert "holds no run to resume: a new one starts" in capsys.readouterr().out
    for options in ([], ["--epochs", 3]):  # a wrong name, as no run is described
        assert run("fit", "--out", tmp_path / "wrong", "--resume", *options) == 1
        assert "wrong holds no run to resume; give the folder" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
    out = tmp_path / "r"
    assert run("fit", "--out", out, *_SMALL) == 0
    assert run("fit", "--out", out, *_SMALL) == 1
    assert "holds a run already" in capsys.readouterr().err
    # with the run's own settings; only made longer
    assert run("fit", "--out", out, "--resume", "--epochs", 4) == 0
    assert "4 epochs" in capsys.readouterr().out
    assert run("fit", "--out", out, "--resume", "--latent-dim", 5) == 1
    assert "latent_dim 2 (now 5)" in capsys.readouterr().err


def test_config_file_reproduces_a_run(tmp_path, capsys):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    options = ["--prior", "mixture", "--prior.components", 3, "--beta", 0.5, "--seed", 4]
    assert run("fit", "--out", one, *_SMALL, *options) == 0
    assert run("fit", "--out", two, "--config", one / "config.json") == 0
    assert run("fit", "--out", other, "--config", one, "--prior.components", 4) == 0
    configs = [read_json(folder / "config.json") for folder in (one, two, other)]
    assert configs[0] == configs[1]
    assert configs[2] == {**configs[0], "prior_components": 4}
    rows = [(f / "history.csv").read_text().splitlines() for f in (one, two)]
    without_time = [[line.rpartition(",")[0] for line in lines] for lines in rows]
    assert without_time[0] == without_time[1]
    assert run("fit", "--out", tmp_path / "x", "--config", tmp_path / "none.json") == 1
    assert "is not the config of a run" in capsys.readouterr().err


def test_says_what_the_numbers_depend_on(tmp_path, capsys):
    data = ["--binarize", "none", "--likelihood", "normal", "--likelihood.floor", 0.05]
    assert run("fit", "--out", tmp_path / "r", *_SMALL, *data) == 0
    assert run("evaluate", tmp_path / "r", "--samples", 20) == 0
    assert "at least 0.05" in capsys.readouterr().out


@pytest.mark.filterwarnings("default:.*of other parameters:pyro_vae.PyroVAEWarning")
def test_longer_run_leaves_out_numbers_of_the_shorter_one(tmp_path, capsys):
    out = tmp_path / "r"
    assert run("fit", "--out", out, *_SMALL) == 0
    assert run("evaluate", out, "--samples", 20, "--method", "auto", "--number", 10) == 0
    assert "proposals" in capsys.readouterr().out
    assert run("fit", "--out", out, "--resume") == 0
    assert (out / "evidence.json").exists()  # nothing changed
    assert run("fit", "--out", out, "--resume", "--epochs", 3) == 0
    assert run("compare", out, out) == 1
    assert "was not evaluated; run `pyro-vae evaluate" in capsys.readouterr().err
    assert run("fit", "--out", out, "--resume") == 0  # the longer config is the run's own now
    assert json.loads((out / "config.json").read_text())["epochs"] == 3


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("pyro-vae 0.")


def test_one_latent_dimension_is_drawn_too(tmp_path):
    out = tmp_path / "r"
    assert run("fit", "--out", out, "--epochs", 1, "--hidden", 8, "--latent-dim", 1) == 0
    assert run("plot", out) == 0
    assert (out / "figures" / "latent.png").exists()


def test_data_of_ones_own(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(200, 3))
    np.save(tmp_path / "x.npy", x)
    assert run("fit", "--data", tmp_path / "x.npy", "--out", tmp_path / "r", *_SMALL) == 1
    assert "choose a binarization" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    arguments = ["--data", tmp_path / "x.npy", "--likelihood", "normal", "--out", tmp_path / "r"]
    assert run("fit", *arguments, *_SMALL) == 0
    assert run("evaluate", tmp_path / "r", "--samples", 50) == 0
    assert run("plot", tmp_path / "r") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fti"], 2, "Did you mean 'fit'?"),
        (["fit", "--latent-dm", "3", "--out", "x"], 2, "--latent-dim"),
        (["fit"], 2, "--out"),
        (["fit", "--out", "x", "--prior", "vamp2"], 2, "invalid choice"),
        (["fit", "--out", "x", "--epochs", "0"], 2, "epochs must be at least 1; got 0"),
        (["fit", "--out", "x", "--data", "mnst"], 1, "Did you mean 'mnist'?"),
        (["fit", "--out", "x", "--device", "gpu"], 1, "unknown device"),
        (["fit", "--out", "x", "--validation", "5000"], 1, "cannot set 5000 data aside"),
        (["fit", "--out", "x", "--prior.components", "3"], 1, "does not take components"),
        (["evaluate", "nowhere"], 1, "no checkpoint"),
        (["compare", "nowhere"], 1, "there is no folder nowhere"),
        (["plot", "nowhere"], 1, "no checkpoint"),
        (["sample", "nowhere"], 1, "no checkpoint"),
        (["report", "nowhere"], 1, "no checkpoint"),
        (["report", "nowhere", "--number", "0"], 1, "at least one datum; got number=0"),
        (["report", "nowhere", "--weights", "int8"], 2, "invalid choice"),
    ],
)
def test_wrong_usage(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == code
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not list(tmp_path.iterdir())


def test_help(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("demo", "fit", "evaluate", "compare", "study", "sample", "plot"):
        assert command in text
    assert cli.main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--latent-dim" in text
    for option in ("--prior {normal,", "--prior.components", "--likelihood.scale", "--posterior {"):
        assert option in text


@pytest.mark.parametrize("command", ["evaluate", "study"])
def test_help_names_the_ladder(command, capsys):
    assert cli.main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "--method {guide,refined,laplace,annealed,modes,auto}" in text
    assert "a rung of the ladder guide (the literature's protocol), refined, laplace, modes" in text
    assert "--no-search" in text


@pytest.mark.search
def test_search_for_missed_mass_can_be_left_out(tmp_path, capsys):
    out = tmp_path / "r"
    assert run("fit", "--out", out, *_SMALL) == 0
    looked = {}
    for options in ((), ("--no-search",)):
        assert run("evaluate", out, "--samples", 1000, "--number", 12, *options) == 0
        looked[options] = (
            capsys.readouterr().out.partition("mass missed")[2].splitlines()[0].strip()
        )
        stored = json.loads((out / "evidence.json").read_text())["search"]
        assert bool(stored["simulated"]) == (not options)
    assert re.fullmatch(r"0 of \d+ simulated data and 0 of 12 data annealed .*", looked[()])
    assert looked["--no-search",] == "not looked for"


def test_every_doubt_is_counted(tmp_path, capsys):
    """Of 24 draws each estimate is doubtful, in the verdict and in the table."""
    for name in ("one", "two"):
        assert run("fit", "--out", tmp_path / name, *_SMALL) == 0
        assert run("evaluate", tmp_path / name, "--samples", 24, "--number", 20) == 0
    doubts = "few draws (20 of 20 data)"
    assert capsys.readouterr().out.count(doubts) == 2
    assert (
        "few draws (20 of 20" in json.loads((tmp_path / "one/metrics.json").read_text())["verdict"]
    )
    assert run("compare", tmp_path / "one", tmp_path / "two") == 0
    assert capsys.readouterr().out.count(doubts) == 2


def test_help_loads_no_torch():
    script = (
        "import sys; from pyro_vae import cli; cli.main(['fit', '--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0


def test_ctrl_c(tmp_path, monkeypatch, capsys):
    from pyro_vae import Interrupted
    from pyro_vae.runs import run as runs

    def stopped(*args, **kwargs):
        raise Interrupted("stopped in epoch 3; saved")

    monkeypatch.setattr(runs, "train_run", stopped)
    assert run("fit", "--out", tmp_path / "r") == 130
    assert "stopped in epoch 3; saved" in capsys.readouterr().err


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").touch()  # it finds another folder
    assert run("demo", "--out", tmp_path / "d", "--epochs", 2, "--samples", 50) == 0
    folder = tmp_path / "d-2"
    out = capsys.readouterr().out
    assert "difference" in out
    assert "normal" in out
    assert "mixture" in out
    listed = [line.strip() for line in out.splitlines() if line.strip().endswith(".png")]
    assert len(listed) > 10
    assert all((folder / name).exists() for name in listed)
    comparison = json.loads((folder / "study.json").read_text())
    assert comparison["number_of_data"] == 360
    page = folder / "report.html"
    assert out.rstrip().endswith(f"open {page}")
    assert page.stat().st_size < 3e6


def test_wrong_values_are_said_without_inner_names(capsys):
    assert run("certify", "x", "--number", 0) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[2].split()[:5] == ["number", "must", "be", "at", "least"]
    assert len({len(line) for line in lines}) == 1  # a box, here without a frame
