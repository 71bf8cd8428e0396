"""Encode, score and reconstruct new data from the command line, and what their files hold."""

import csv
import json

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli

pytestmark = [
    pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence"),
    pytest.mark.filterwarnings("ignore:training made the model worse"),  # in two epochs
]

_SMALL = ["--hidden", "16", "--latent-dim", "2", "--epochs", "2"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    """A run on real values, and rows that it was not trained on, one of them far out."""
    folder = tmp_path_factory.mktemp("normal")
    generator = np.random.default_rng(0)
    np.save(folder / "x.npy", generator.normal(size=(200, 3)))
    new = generator.normal(size=(70, 3)).astype(np.float32)
    new[41] = 9
    np.save(folder / "new.npy", new)
    options = ["--data", folder / "x.npy", "--likelihood", "normal", "--out", folder / "r"]
    assert run("fit", *options, *_SMALL) == 0
    return folder


def test_codes_of_all_rows_in_the_files_order(normal, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    assert run("encode", normal / "r", normal / "new.npy", "--out", out, "--draws", 30) == 0
    said = capsys.readouterr().out
    assert "z        q(z|x): (70, 2), exact" in said
    assert "new.npy all rows, 70 rows" in said
    vae, x = pv.load_run(normal / "r").vae, torch.from_numpy(np.load(normal / "new.npy"))
    with np.load(out, allow_pickle=False) as found:
        assert found["row"].tolist() == list(range(70))
        torch.testing.assert_close(torch.from_numpy(found["z_mean"]), vae.encode(x))
        assert found["z_draw"].shape == (70, 30, 2)
        deviation = (found["z_draw"].mean(1) - found["z_mean"]) / found["z_scale"] * 30**0.5
        assert np.abs(deviation).max() < 4.5
        assert (found["z_error"] == 0).all()
        about = json.loads(str(found["about"]))
    assert about["data_sha256"] == pv.data.fingerprint(x)
    assert about["data"] == "new.npy all rows"
    assert about["seed"] == 0


def test_csv_and_parquet_hold_what_npz_holds(normal, tmp_path):
    arrow = pytest.importorskip("pyarrow.parquet")
    for suffix in ("npz", "csv", "parquet"):
        assert (
            run("reconstruct", normal / "r", normal / "new.npy", "--out", tmp_path / f"x.{suffix}")
            == 0
        )
    whole = np.load(tmp_path / "x.npz", allow_pickle=False)
    assert whole["x_mean"].shape == (70, 3)
    table = arrow.read_table(tmp_path / "x.parquet")
    assert json.loads(table.schema.metadata[b"pyro_vae"]) == json.loads(str(whole["about"]))
    head, *rows = csv.reader((tmp_path / "x.csv").read_text().splitlines())
    assert head == table.column_names
    assert head == ["row", *(f"x_{what}[{d}]" for what in ("mean", "error") for d in range(3))]
    for place, name in enumerate(head):
        column, _, index = name.partition("[")
        expected = whole[column][:, int(index[:-1])] if index else whole[column]
        np.testing.assert_array_equal(table[name].to_numpy(), expected)
        read = np.array([row[place] for row in rows]).astype(expected.dtype)
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("name", ["new.npz", "r/history.csv", "r/config.json", "r/evidence.json"])
def test_files_that_are_read_or_a_runs_own_are_not_written(normal, tmp_path, capsys, name):
    np.savez(normal / "new.npz", x=np.load(normal / "new.npy"))
    path = normal / name
    before = path.read_bytes() if path.exists() else None
    given = [normal / "r", normal / "new.npz", "--out", path]
    commands = [[command, *given] for command in ("encode", "score", "reconstruct")]
    commands += [["compare", normal / "r", "--json", path]] if name.startswith("r/") else []
    commands += [["report", normal / "r", "--out", path]] if name.startswith("r/") else []
    for command in commands:
        assert run(*command) == 1
        error = capsys.readouterr().err
        assert f"cannot write {path}: it is " in error
        assert error.endswith("give another name.\n")
    assert (path.read_bytes() if path.exists() else None) == before


def test_data_of_a_run_are_not_replaced_by_its_report(normal, capsys):
    before = (normal / "x.npy").read_bytes()
    assert run("report", normal / "r", "--out", normal / "x.npy") == 1
    assert "it is what is read" in capsys.readouterr().err
    assert (normal / "x.npy").read_bytes() == before


def test_scores_are_sorted_by_surprise_and_are_those_of_log_evidence(normal, tmp_path, capsys):
    out = tmp_path / "s.csv"
    assert run("score", normal / "r", normal / "new.npy", "--out", out, "--samples", 100) == 0
    said = capsys.readouterr().out
    assert "verdict" in said
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert rows[0]["row"] == "41"
    assert said.partition("most surprising rows")[2].split()[0] == "41"
    vae, x = pv.load_run(normal / "r").vae, torch.from_numpy(np.load(normal / "new.npy"))
    evidence = pv.log_evidence(vae.model, vae.guide, x, samples=100)
    assert sorted(int(row["row"]) for row in rows) == list(range(70))
    assert [float(row["log_px"]) for row in rows] == evidence.corrected().sort().values.tolist()
    for row in rows:
        n = int(row["row"])
        for name, values in (
            ("log_px_uncorrected", evidence.log_px),
            ("standard_error", evidence.standard_error),
            ("ess", evidence.ess),
            ("pareto_k", evidence.pareto_k),
        ):
            assert float(row[name]) == values[n].item()
        assert row["verdict"] == evidence.verdicts()[n]
        assert row["proposal"] == "guide"


def test_pixels_are_prepared_as_in_training(tmp_path):
    """Integers are divided by the largest value of the training data, not by that of the rows."""
    pixels = np.random.default_rng(0).integers(0, 17, (120, 4, 4))
    pixels[0, 0, 0] = 16
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "dark.npy", pixels[5:11].clip(max=7))
    options = [*_SMALL, "--binarize", "static", "--data-seed", 3]
    assert run("fit", "--data", tmp_path / "x.npy", "--out", tmp_path / "r", *options) == 0
    new = pv.runs.new_data.read_new(tmp_path / "r", tmp_path / "dark.npy")
    assert new.data.description == "dark.npy all rows, static binarization, seed 3"
    assert set(new.data.x.unique().tolist()) == {0.0, 1.0}
    many = np.full((2000, 4, 4), 4)
    np.save(tmp_path / "dark.npy", many)
    new = pv.runs.new_data.read_new(tmp_path / "r", tmp_path / "dark.npy")
    assert abs(new.data.x.mean() - 4 / 16) < 4 * (0.25 * 0.75 / many.size) ** 0.5
    np.save(tmp_path / "gray.npy", many / 16)
    assert torch.equal(
        pv.runs.new_data.read_new(tmp_path / "r", tmp_path / "gray.npy").data.x, new.data.x
    )
    (tmp_path / "x.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"give gray values in \[0, 1\]"):
        pv.runs.new_data.read_new(tmp_path / "r", tmp_path / "dark.npy")


@pytest.mark.parametrize("program", ["conditional", "semi-supervised", "top-down"])
def test_programs_with_labels_and_layers(program, tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 2, (60, 4)), generator.integers(0, 3, 60)
    y[:3] = range(3)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "xy.npz", x=x[:12], y=y[:12])
    np.save(tmp_path / "x.npy", x[:12])
    out = tmp_path / "r"
    options = ["--program", program, "--data", tmp_path / "train.npz", "--out", out]
    assert run("fit", *options, *_SMALL) == 0
    for command in ("encode", "score", "reconstruct"):
        file = tmp_path / f"{command}.npz"
        assert run(command, out, tmp_path / "xy.npz", "--out", file, "--samples", 30) == 0
        found = np.load(file, allow_pickle=False)
        assert found["label"].tolist() == y[found["row"]].tolist()
    code = 1 if program == "conditional" else 0
    assert run("encode", out, tmp_path / "x.npy", "--out", tmp_path / "o.npz") == code
    codes = np.load(tmp_path / "encode.npz")
    sites = {"conditional": ["z"], "semi-supervised": ["y", "z"], "top-down": ["z1", "z2"]}
    assert sorted(k[:-5] for k in codes.files if k.endswith("_mean")) == sites[program]
    if program == "semi-supervised":
        probabilities = pv.load_run(out).vae.classify(torch.from_numpy(x[:12]).float())
        torch.testing.assert_close(torch.from_numpy(codes["y_mean"]), probabilities)


@pytest.mark.parametrize(
    ("data", "out", "message"),
    [
        ("wide.npy", "o.csv", "holds data of shape (4,); the run in"),
        ("empty.npy", "o.csv", "is empty"),
        ("nothing.npy", "o.csv", "cannot be read as a NumPy file"),
        ("nan.npy", "o.csv", "NaN or infinite values (first in datum 1)"),
        ("none.npy", "o.csv", "no file"),
        ("new.txt", "o.csv", "unknown data set"),
        ("new.npy", "o.json", "suffix must be one of .npz, .parquet, .csv"),
        ("new.npy", "folder.csv", "it is a folder"),
    ],
)
def test_wrong_input_is_one_line(normal, tmp_path, data, out, message, capsys):
    np.save(normal / "wide.npy", np.zeros((5, 4)))
    np.save(normal / "empty.npy", np.zeros((0, 3)))
    (normal / "nothing.npy").write_bytes(b"")
    np.save(normal / "nan.npy", np.array([[0, 0, 0], [0, np.nan, 0]]))
    (tmp_path / "folder.csv").mkdir()
    assert run("score", normal / "r", normal / data, "--out", tmp_path / out) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_rows_outside_the_support_and_runs_that_are_not_there(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((120, 2)))
    np.save(tmp_path / "half.npy", np.array([[0, 1], [0, 0.5]]))
    options = ["--data", tmp_path / "x.npy", "--out", tmp_path / "r", *_SMALL]
    assert run("fit", *options) == 0
    for command in ("encode", "score", "reconstruct"):
        file = tmp_path / "o.npz"
        assert run(command, tmp_path / "r", tmp_path / "half.npy", "--out", file) == 1
        assert "datum 1 holds values such as 0.5" in capsys.readouterr().err
        assert run(command, tmp_path / "nowhere", tmp_path / "half.npy", "--out", file) == 1
        assert "no checkpoint" in capsys.readouterr().err
        assert not file.exists()


def test_tables_are_coded_by_the_runs_columns(tmp_path, capsys):
    pytest.importorskip("pandas")
    lines = ["size,kind", *(f"{n / 7:.3f},{'abc'[n % 3]}" for n in range(60)), ",a"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "new.csv").write_text("size,kind\n1.5,b\n,c\n")
    options = ["--data", tmp_path / "t.csv", "--likelihood", "columns", "--out", tmp_path / "r"]
    assert run("fit", *options, *_SMALL) == 0
    given = tmp_path / "r", tmp_path / "new.csv", "--out", tmp_path / "o.npz"
    for command in ("encode", "score"):
        assert run(command, *given, "--samples", 30) == 0
        assert len(np.load(tmp_path / "o.npz")["row"]) == 2
    assert run("reconstruct", *given) == 1
    assert "pyro-vae impute" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    assert run("score", tmp_path / "r", tmp_path / "x.npy", "--out", tmp_path / "o.npz") == 1
    assert "is no table" in capsys.readouterr().err


def test_a_table_for_a_run_of_arrays_is_named_as_one(normal, tmp_path, capsys):
    """Before its columns are looked at: what is wrong with them is not what is wrong."""
    (tmp_path / "t.csv").write_text("a,b\n1,x\n1,y\n")
    assert run("score", normal / "r", tmp_path / "t.csv", "--out", tmp_path / "o.csv") == 1
    assert "is a table, and the data of the run in" in capsys.readouterr().err
