"""An exported run is read without its data and checkpoint, to the same bits."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.common.settings import EvaluationSettings
from pyro_vae.runs.card import model_card
from pyro_vae.runs.run import evaluate_run, train_run

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_CONFIG = pv.Config(prior="vamp", prior_components=3, latent_dim=2, hidden=(8,), epochs=2)
_FILES = {"model.safetensors", "config.json", "README.md", "history.csv", "SHA256SUMS"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(_CONFIG, folder, device="cpu")
    evaluate_run(folder, EvaluationSettings(samples=30, number=20, search=False), device="cpu")
    return folder


@pytest.fixture
def exported(run, tmp_path):
    return pv.runs.export_run(run, tmp_path / "there")


def test_exported_run_has_the_same_bits(run, exported, digits):
    assert {path.name for path in exported.iterdir()} == _FILES | {"evidence.json", "metrics.json"}
    one, other = pv.load_run(run), pv.load_run(exported)
    for name, value in one.vae.state_dict().items():
        assert torch.equal(value, other.vae.state_dict()[name])
    assert one.config == other.config
    assert str(one.history) == str(other.history)
    assert one.finished
    assert other.finished
    both = [
        pv.log_evidence(r.vae.model, r.vae.guide, digits.test.head(9), samples=30).log_px
        for r in (one, other)
    ]
    assert torch.equal(*both)
    assert torch.equal(one.sample(3, seed=0), other.sample(3, seed=0))
    assert pv.runs.run.compare_runs([run, exported]).rows[1].difference == 0
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=exported, check=False)
    assert done.returncode == 0
    again = pv.runs.export_run(run, exported)  # an older export is replaced
    assert torch.equal(pv.load_run(again).sample(3, seed=0), one.sample(3, seed=0))


def test_card(exported):
    card = (exported / "README.md").read_text()
    metrics = json.loads((exported / "metrics.json").read_text())
    assert f"| log p(x) | {metrics['log_px']:.3f} nats per datum" in card
    for text in (
        "Monte-Carlo error | 0.",
        "sampling error",
        metrics["data_sha256"],
        "Pareto k̂ too high",
        "K = 30, seed 0",
        "2 of 2 epochs",
        "| p(z) | vamp |",
        "| prior_components | 3 |",
        f"| torch | {torch.__version__} |",
        'load_run(".")',
    ):
        assert text in card
    code = card.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")


def test_markup_in_names_is_text(run):
    """A data set may be called anything; a card shows that and nothing else."""
    from dataclasses import replace

    name = "a|b</table><script>x</script>[l](http://e.com) `c` *d*\n# e ![i](www.e.com) $f$"
    loaded = pv.load_run(run)
    state = pv.checkpoint.read(run / "checkpoint.pt")
    evidence = replace(pv.Evidence.load(run / "evidence.json"), data=name)
    config = replace(loaded.config, data=name)
    card = model_card(replace(loaded, config=config), state, evidence, {"likelihood": name})
    assert len(card.splitlines()) == len(model_card(loaded, state, evidence, {}).splitlines())
    written = r"a\|b\</table\>\<script\>x\</script\>\[l\](http\://e.com) \`c\` \*d\* \# e \!\[i\]"
    assert card.count(written + r"(www\.e.com) \$f\$") == 4  # title, likelihood, two data
    assert "<" not in card.replace(r"\<", "")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_is_seen(exported, name):
    whole = (exported / name).read_bytes()
    for position in (3, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        (exported / name).write_bytes(damaged)
        with pytest.raises(pv.CheckpointError, match=rf"{name} is damaged or .*export the run"):
            pv.load_run(exported)
    (exported / name).write_bytes(whole[:-7])
    with pytest.raises(pv.CheckpointError, match=rf"{name} is damaged"):
        pv.load_run(exported)
    (exported / name).unlink()
    with pytest.raises(pv.CheckpointError, match=rf"{name} is missing"):
        pv.load_run(exported)


def test_damage_with_a_checksum_of_its_own(exported):
    """Files that were made so, and not by us."""
    from pyro_vae.runs.weights import write_sums

    whole = (exported / "model.safetensors").read_bytes()
    for content in (b"", b"\xff" * 64, whole[:100], whole.replace(b"event_shape", b"event_shapf")):
        (exported / "model.safetensors").write_bytes(content)
        write_sums(exported)
        with pytest.raises(pv.CheckpointError, match=r"model.safetensors"):
            pv.load_run(exported)
    (exported / "model.safetensors").write_bytes(whole)
    (exported / "config.json").write_text('{"latent_dim": 3}')
    write_sums(exported)
    with pytest.raises(pv.CheckpointError, match="another architecture"):
        pv.load_run(exported)
    (exported / "SHA256SUMS").write_text("\x00")
    with pytest.raises(pv.CheckpointError, match="checksum is not that in SHA256SUMS"):
        pv.load_run(exported)


def test_only_the_name_of_a_file_of_data_is_kept(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "private").mkdir()
    data = tmp_path / "private" / "x.npy"
    import numpy as np

    np.save(data, torch.randn(40, 3).numpy())
    config = pv.Config(data=str(data), likelihood="normal", latent_dim=1, hidden=(4,), epochs=1)
    train_run(config, tmp_path / "r", device="cpu")
    out = pv.runs.export_run(tmp_path / "r")
    assert out == tmp_path / "r" / "export"
    data.unlink()
    shutil.move(out, tmp_path / "moved")
    shutil.rmtree(tmp_path / "r")
    loaded = pv.load_run(tmp_path / "moved")
    assert loaded.config.data == "x.npy"
    assert not [p for p in (tmp_path / "moved").iterdir() if "private" in p.read_text("latin-1")]
    assert "was not evaluated" in (tmp_path / "moved" / "README.md").read_text()


def test_command(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "e"
    assert cli.main(["export", str(run), "--out", str(out)]) == 0
    assert str(out / "model.safetensors") in capsys.readouterr().out
    assert cli.main(["export", str(tmp_path / "none")]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    assert cli.main(["export", str(run), "--out", str(tmp_path / "full")]) == 1
    assert "is not empty and no export" in capsys.readouterr().err
    assert (tmp_path / "full" / "README.md").read_text() == "mine"
    assert cli.main(["export", str(run), "--out", str(run)]) == 1
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for arguments in (["export", str(run), "--out", str(tmp_path / "x")], ["sample", str(out)]):
        assert cli.main(arguments) == 1
        assert 'pip install "pyro-vae[export]"' in capsys.readouterr().err
