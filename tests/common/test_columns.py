import csv
import json
import sys

import numpy as np
import pytest
import torch

from pyro_vae.common.columns import escaped, write_columns

_COLUMNS = {
    "row": [0, 1, 2],
    "thirds": torch.arange(3).double() / 3,
    "single": torch.arange(3) / 3,
    "odd": np.array([np.nan, np.inf, -np.inf]),
    "whole": torch.tensor([-5, 2**60, 0]),
    "parts": torch.arange(12.0).reshape(3, 2, 2),
    "said": ["=1+1", "trusted", '-2 e, "x"'],
}


def test_csv_reads_back_to_the_same_bits_and_runs_no_formula(tmp_path):
    path = write_columns(tmp_path / "new" / "a.csv", _COLUMNS)
    head, *rows = csv.reader(path.read_text().splitlines())
    parts = [f"parts[{i},{j}]" for i in range(2) for j in range(2)]
    assert head == ["row", "thirds", "single", "odd", "whole", *parts, "said"]
    columns = dict(zip(head, zip(*rows, strict=True), strict=True))
    for name in ("thirds", "single", "odd", "whole"):
        expected = np.asarray(_COLUMNS[name])
        np.testing.assert_array_equal(np.array(columns[name]).astype(expected.dtype), expected)
    assert [float(v) for v in columns["parts[1,0]"]] == [2, 6, 10]
    assert columns["said"] == ("'=1+1", "trusted", '\'-2 e, "x"')
    assert columns["whole"][0] == "-5"  # a number is no formula


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@f", "\tx", "\rx"])
def test_formulas_are_escaped(text):
    assert escaped(text) == f"'{text}"
    assert escaped(f"a{text}") == f"a{text}"


def test_npz_needs_no_pickle(tmp_path):
    path = write_columns(tmp_path / "a.npz", _COLUMNS, {"seed": 3})
    with np.load(path, allow_pickle=False) as found:
        assert found["parts"].shape == (3, 2, 2)
        assert found["said"].tolist() == _COLUMNS["said"]
        assert json.loads(str(found["about"])) == {"seed": 3}


def test_parquet_keeps_types_and_where_it_is_from(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write_columns(tmp_path / "a.parquet", _COLUMNS, {"seed": 3}))
    assert str(table.schema.field("single").type) == "float"
    assert str(table.schema.field("thirds").type) == "double"
    assert table["parts[1,1]"].to_pylist() == [3, 7, 11]
    assert table["said"].to_pylist() == _COLUMNS["said"]
    assert json.loads(table.schema.metadata[b"pyro_vae"]) == {"seed": 3}


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[tables\]"'):
        write_columns(tmp_path / "a.parquet", _COLUMNS)


def test_wrong_files_are_refused_and_old_ones_kept(tmp_path):
    path = write_columns(tmp_path / "a.csv", _COLUMNS)
    before = path.read_text()
    with pytest.raises(ValueError, match="one row for each datum"):
        write_columns(path, {"a": [1, 2], "b": [1]})
    with pytest.raises(ValueError, match="suffix must be one of"):
        write_columns(tmp_path / "a.xlsx", _COLUMNS)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
