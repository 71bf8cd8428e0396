from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.common.schema import Column, Schema, parse_columns
from pyro_vae.data import coded, decoded, describe, imputed, infer, load_table
from pyro_vae.data.frames import write_frame
from pyro_vae.data.missing import completed


def _table(n=60):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": rng.normal(170, 9, n),
            "tail": rng.standard_t(2, n) * 3 + 1e4,
            "visits": rng.poisson(3, n),
            "clicks": rng.negative_binomial(1, 0.02, n),
            "stars": np.tile([2, 3, 3, 4, 5], n // 5),
            "year": rng.integers(1990, 2010, n),
            "city": rng.choice(["B", "A", "C"], n),
            "sold": rng.random(n) < 0.4,
            "flag": rng.integers(0, 2, n),
            "share": np.linspace(0.01, 0.99, n),
            "load": np.linspace(0.0, 1.0, n),
        }
    )


_CHOSEN = {
    "height": "normal",
    "tail": "student-t",
    "visits": "poisson",
    "clicks": "negative-binomial",
    "stars": "categorical",
    "year": "normal",
    "city": "categorical",
    "sold": "bernoulli",
    "flag": "bernoulli",
    "share": "beta",
    "load": "truncated-normal",
}


def test_likelihoods_are_chosen_by_values_and_shown():
    frame = _table()
    frame.loc[3:11, "visits"] = np.nan  # whole numbers, although pandas makes them float64
    schema = infer(frame)
    assert {column.name: column.likelihood for column in schema} == _CHOSEN
    lines = describe(schema, coded(frame, schema)).splitlines()
    assert lines[0].split() == ["column", "kind", "likelihood", "missing", "values"]
    assert lines[4].split()[:4] == ["visits", "count", "poisson", "15.0%"]
    assert "A, B, C" in lines[8]


def test_likelihoods_can_be_given():
    given = {"height": "student-t", "clicks": "normal", "year": "ignore", "flag": "categorical"}
    schema = infer(_table(), {**given, "tail": "truncated-normal:0:20000"})
    chosen = {column.name: column for column in schema}
    assert schema.ignored == ("year",)
    assert "year" not in chosen
    assert chosen["height"].likelihood == "student-t"
    assert chosen["flag"].categories == (0, 1)
    assert (chosen["tail"].offset, chosen["tail"].scale) == (0.0, 20000.0)
    assert parse_columns(("a=b=beta:0:2", "c=ignore")) == {"a=b": "beta:0:2", "c": "ignore"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("age",), "NAME=LIKELIHOOD"),
        (("age=nomral",), r"unknown likelihood 'nomral' of column 'age'.*mean 'normal'"),
        (("age=beta:1",), "beta:0:100"),
        (("age=normal:0:1",), "bounds are for"),
        (("age=normal", "age=beta"), "twice"),
    ],
)
def test_wrong_settings_of_columns(settings, message):
    with pytest.raises(ValueError, match=message):
        pv.Config(columns=settings)


def test_numbers_and_values_are_the_same_table():
    frame = _table()
    frame.loc[5, ["height", "city", "flag"]] = None
    frame = frame.astype({"flag": "Int64"})
    schema = infer(frame)
    x = coded(frame, schema)
    assert x.dtype == torch.float32
    assert x.isnan().sum() == 3
    height = x[:, 0][~x[:, 0].isnan()].double()
    assert abs(height.mean()) < 1e-6
    assert abs(height.std(correction=0) - 1) < 1e-6
    back = decoded(x, schema)
    for name in ("height", "tail", "share"):
        np.testing.assert_allclose(back[name], frame[name], rtol=1e-6)
    assert back["city"].isna()[5]
    assert back["city"].drop(5).tolist() == frame["city"].drop(5).tolist()
    assert back["clicks"].tolist() == frame["clicks"].tolist()
    assert torch.equal(coded(back, schema).nan_to_num(9), x.nan_to_num(9))


def test_schema_is_kept_and_reads_other_tables():
    frame = _table()
    schema = infer(frame)
    assert Schema.from_dict(pv.Config(likelihood_schema=schema).to_dict()["likelihood_schema"])
    config = pv.Config(likelihood="columns", likelihood_schema=schema, columns=("city=ignore",))
    assert pv.Config.from_dict(config.to_dict()) == config
    new = frame.iloc[:7, ::-1].assign(city=["C"] * 7, stars=[5.0] * 7)
    expected = coded(frame.assign(city="C", stars=5), schema)[:7]
    assert torch.equal(coded(new, schema), expected)
    with pytest.warns(pv.PyroVAEWarning, match=r"does not know, which are ignored: 'more'"):
        coded(new.assign(more=1), schema)
    with pytest.raises(ValueError, match=r"lacks the columns 'height', 'load'; expected 'height'"):
        coded(new.drop(columns=["load", "height"]), schema)
    with pytest.raises(ValueError, match=r"holds 'D' \(row 2\).*none of its categories: A, B, C"):
        coded(new.assign(city=["A", "B", "D", "A", "A", "A", "A"]), schema)


@pytest.mark.parametrize(
    "damaged", [{}, {"columns": []}, {"columns": [{"name": "a"}]}, {"columns": 3}]
)
def test_damaged_schema(damaged):
    with pytest.raises(ValueError, match="schema of a table cannot be read"):
        pv.Config.from_dict({"likelihood_schema": damaged})
    with pytest.raises(ValueError, match="positive scale"):
        Column(name="a", likelihood="normal", scale=0.0)
    with pytest.raises(ValueError, match="with 0 categories"):
        Column(name="a", likelihood="categorical")


_N = 30
_WRONG = [
    ({"a": []}, None, "is empty: it has no rows"),
    ({"a": [1.5]}, None, "has 1 row; a model needs two"),
    ({"a": [None] * _N, "b": range(_N)}, None, "'a' of the table has no values; .* a=ignore"),
    ({"a": [None, 1.5, 2.25], "b": [None, 1.5, 2.5]}, None, "no value in row 0"),
    ({"a": [f"text {i}" for i in range(_N)]}, None, "free text: 30 different values in 30 rows"),
    ({"a": [*map(str, range(_N)), "n.a.", "?"]}, None, "numbers but for 2 values such as 'n.a.'"),
    ({"a": [2.0] * _N}, None, "one value alone, 2"),
    ({"a": ["x"] * _N}, None, "one value alone, 'x'"),
    ({"a": [-1, 2, 3]}, {"a": "poisson"}, r"holds -1 \(row 0\), but poisson takes counts"),
    ({"a": [1, 2.5, 3]}, {"a": "negative-binomial"}, r"holds 2.5 \(row 1\).*whole numbers"),
    ({"a": [1, 2**25 + 1, 3]}, {"a": "poisson"}, "exactly, as all up to 16777216"),
    ({"a": [1.0, np.inf, 3]}, None, r"infinite value \(row 1\)"),
    ({"a": [0.0, 0.5, 1]}, {"a": "beta"}, r"holds 0 \(row 0\).*truncated-normal takes the ends"),
    ({"a": [0.0, 0.5, 2]}, {"a": "truncated-normal"}, r"holds 2 \(row 2\).*from 0 to 1"),
    ({"a": [0, 1, 2]}, {"a": "bernoulli"}, "has 3 values, and bernoulli takes two"),
    ({"a": ["u", "v"] * 5}, {"a": "normal"}, "holds 'u', and normal takes numbers"),
    ({"a": pd.date_range("2020", periods=3)}, None, "holds dates or times"),
    ({"a": [1.5, 2, 4]}, {"b": "normal"}, "no column 'b'"),
    ({"a": [1.5, 2, 4]}, {"a": "ignore"}, "no columns that are not ignored"),
    ({"a": [f"{i}.5" for i in range(_N)]}, None, "numbers as text, such as '0.5'.* a=normal"),
    ({"a": [*map(str, range(_N)), "?"]}, None, r"but for 1 value such as '\?'"),
    ({"a": [f"{i},5" for i in range(_N)]}, None, "such as '0,5'. .*with commas: write 1.5 for 1,5"),
    ({"a": [f"${i}.5" for i in range(_N)]}, None, "amounts with a sign"),
    ({"a": ["1,5", "2,5"] * 5}, {"a": "normal"}, "holds '1,5', and normal takes.*write 1.5"),
    ({"a": [date(2020, 1, 1 + i) for i in range(_N)]}, None, "holds dates or times"),
    ({"a": [1 + 2j, 3, 4j]}, None, "holds complex numbers"),
    ({"a": [1e200, 2e200, None, -3e200]}, None, r"-3e\+200 to 2e\+200 .*row 3.* differ too much"),
    ({"a": [1e-300, 2e-300, 3e-300]}, None, "differ too little for float32; give them in other"),
    ({"Unnamed: 0": [0, 1, 2, 3], "a": [1.5, 2, 4, 5]}, None, "has no name"),
]


@pytest.mark.parametrize(("columns", "given", "message"), _WRONG, ids=[w[2][:25] for w in _WRONG])
def test_wrong_tables(columns, given, message):
    with pytest.raises(ValueError, match=message):
        pv.load(pd.DataFrame(columns), columns=given)


def test_values_too_far_from_a_schemas_and_names_in_several_rows():
    frame = _table()
    schema = infer(frame)
    with pytest.raises(
        ValueError, match=r"'height' .*holds 1e\+300 \(row 1\), too far from .*mean"
    ):
        coded(frame.assign(height=[1.0, 1e300, *[2.0] * 58]), schema)
    with pytest.raises(ValueError, match="has 2 rows of column names; expected one"):
        pv.load(pd.DataFrame({("a", "b"): [1.0, 2.0]}))


def test_decimals_and_numbers_as_text_are_numbers():
    values = [1.25, -0.5, 3.0, 7.75]
    expected = coded(pd.DataFrame({"a": values}), infer(pd.DataFrame({"a": values})))
    for cells in (map(Decimal, map(str, values)), map(str, values), pd.Categorical(values)):
        frame = pd.DataFrame({"a": list(cells)})
        schema = infer(frame, {"a": "normal"})
        assert torch.equal(coded(frame, schema), expected)
    assert infer(pd.DataFrame({"a": [*map(Decimal, "1234")]}))  # without a likelihood
    assert infer(pd.DataFrame({"a": [Decimal("1.0"), 2]})).columns[0].categories == (1.0, 2)


@pytest.mark.parametrize("cells", [["2020-01-31", "2020-02-29"], ["1,5", "2,5"], ["5 €", "6 €"]])
def test_text_that_looks_like_numbers_or_dates_is_said_to_be_categories(cells, recwarn):
    frame = pd.DataFrame({"a": cells * 5})
    infer(frame, {"a": "categorical"})
    assert not recwarn
    with pytest.warns(pv.PyroVAEWarning, match="is taken as 2 categories. It looks like"):
        infer(frame)


def test_columns_are_shown_as_they_are():
    frame = pd.DataFrame({"a": [0.0, 87.0, 31.1, 2.2], "b": ["Oslo", "Oslo ", "Rome", "a, b"]})
    schema = infer(frame)
    lines = describe(schema, coded(frame, schema)).splitlines()
    assert lines[2].endswith("  0 to 87")
    assert lines[3].endswith("  Oslo, 'Oslo ', Rome, 'a, b'")


def test_words_that_csv_takes_as_missing_are_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "NA,1\nDE,NA\nFR,3\n,4\nFR,NaN\nDE,5\nDE,9\n" * 5)
    with pytest.warns(pv.PyroVAEWarning, match=r"'a' of .*t.csv has cells 'NA', which .* missing"):
        table = load_table(path, {"b": "normal"})
    assert table.x.isnan().sum(0).tolist() == [10, 10]
    assert table.schema.columns[0].categories == ("DE", "FR")
    kept = load_table(pd.read_csv(path, keep_default_na=False, na_values={"b": ["NA", ""]}))
    assert "NA" in kept.schema.columns[0].categories


def test_ignored_columns_are_kept_as_they_are_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,gap,n,v\n007,1,1,0.1\n008,,2,0.7\n010,3,3,0.2\n")
    table = load_table(path, {"id": "ignore", "gap": "ignore", "n": "ignore", "v": "normal"}).table
    assert table["id"].tolist() == ["007", "008", "010"]
    assert table["gap"].tolist() == ["1", None, "3"]
    assert table["n"].tolist() == [1, 2, 3]


def test_files(tmp_path):
    frame = _table()
    frame.loc[4, "height"] = np.nan
    for name in ("t.csv", "t.parquet"):
        path = write_frame(frame, tmp_path / name)
        splits = pv.load(path)
        assert [len(data) for data in splits] == [49, 5, 6]
        whole = load_table(path)
        assert whole.schema == splits.train.schema == infer(frame)
        torch.testing.assert_close(whole.x, coded(frame, whole.schema), equal_nan=True)
        assert splits.test.description == f"{name} test"
    assert pv.load(frame).train.sha256 == splits.train.sha256
    with pytest.raises(ValueError, match="binarization is for gray"):
        pv.load(path, binarize="static")
    with pytest.raises(ValueError, match="columns are those of a table"):
        pv.load("digits", columns={"a": "normal"})
    with pytest.raises(ValueError, match=r"written as .csv or .parquet"):
        write_frame(frame, tmp_path / "t.xlsx")


def test_polars_frames():
    polars = pytest.importorskip("polars")
    frame = _table().astype({"visits": "Int64"})
    frame.loc[2, ["city", "visits"]] = None
    schema = infer(frame)
    given = polars.from_pandas(frame)
    assert infer(given) == schema
    assert torch.equal(coded(given, schema).nan_to_num(9), coded(frame, schema).nan_to_num(9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n", "no rows"),
        (b"a,b,a\n1,2,3\n4,5,6\n", "several columns named 'a'"),
        (b"a;b\n1;2\n3;4\n", "separate the columns by commas"),
        (b"a|b\n1|2\n3|4\n", "separate the columns by commas"),
        (b"\na b\n1 2\n3 4\n", "separate the columns by commas"),
        (b"a,b\n1,2\n1,2,3\n", "cannot be read as a table"),
        (b"a,b\n1,2,3\n1,2,4\n", "more cells than the 2"),
        (b"\x80\xff\x00\n", "cannot be read as a table"),
        ("größe,b\n1,2\n".encode("latin-1"), "no UTF-8 text .byte 0xf6.; save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "no UTF-8 text .byte 0xff.; save it as UTF-8"),
    ],
)
def test_wrong_csv(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"t.csv.*{message}"):
        pv.load(path)


def test_wrong_parquet(tmp_path):
    path = write_frame(_table(), tmp_path / "t.parquet")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as a parquet file"):
        pv.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"t\.parquet is empty"):
        pv.load(path)


def test_pandas_is_asked_for(monkeypatch, tmp_path):
    path = write_frame(_table(), tmp_path / "t.csv")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[tables\]"'):
        pv.load(path)


def test_imputed_cells_have_centre_and_spread():
    schema = Schema(
        (
            Column(name="m", likelihood="normal", offset=10, scale=4),
            Column(name="n", likelihood="poisson", scale=2),
            Column(name="c", likelihood="categorical", categories=("u", "v", "w")),
        )
    )
    draws = torch.tensor([[[0.0, 1, 2]], [[1.0, 2, 2]], [[2.0, 4, 0]]])
    table = imputed(draws, torch.tensor([[True, True, True]]), schema)
    assert table.loc[0, ["m", "n", "c"]].tolist() == [14.0, 2, "w"]
    spreads = table.loc[0, ["m.spread", "n.spread", "c.spread"]].astype(float).tolist()
    assert spreads == pytest.approx([4 * np.std([0, 1, 2]), np.std([1, 2, 4]), 1 / 3])
    each = imputed(draws, torch.tensor([[True, True, True]]), schema, each=True)
    assert each["draw"].tolist() == [0, 1, 2]
    assert each["c"].tolist() == ["w", "w", "u"]


@pytest.mark.parametrize("each", [False, True])
def test_what_was_observed_is_as_it_was(each):
    """Every cell to its bits and in its type, also in columns that the model does not know."""
    n = 12
    frame = pd.DataFrame(
        {
            "id": [f"k{i}" for i in range(n)],
            "year": [1990.0 + i for i in range(n)],
            "money": [12356580.32 + 1.7 * i for i in range(n)],
            "grade": pd.Categorical(["lo", "hi", "mid"] * 4, ["lo", "mid", "hi"], ordered=True),
            "sold": pd.array([True, False, None] * 4, dtype="boolean"),
            "text": pd.array(["x", "y", None] * 4, dtype="string"),
            "exact": [Decimal("1.10") + i for i in range(n)],
            "small": np.arange(n, dtype="f4") / 7,
            "whole": pd.array([1, 5, None] * 4, dtype="Int64"),
        },
        index=range(50, 50 + n),
    )
    frame.loc[53, ["year", "money", "grade", "exact", "small"]] = None
    schema = infer(frame, {"id": "ignore", "whole": "normal"})
    x = coded(frame, schema)
    draws = torch.stack([torch.where(x.isnan(), torch.tensor(v), x) for v in (0.0, 1.0, 1.0)])
    found = imputed(draws, x.isnan(), schema, given=frame, each=each)
    assert found[list(frame.columns)].notna().all(axis=None)
    for name in frame.columns:
        seen = frame[name].notna().to_numpy()
        assert found[name][:n][seen].tolist() == frame[name][seen].tolist()
        if name != "whole":  # holds 2.5 now
            assert found[name].dtype == frame[name].dtype
    assert found["exact"].map(type).eq(Decimal).all()
    if not each:
        assert found.index.equals(frame.index)
        assert list(found.columns)[:3] == ["id", "year", "year.spread"]


def test_names_that_the_table_has_already_are_not_taken():
    nan = float("nan")
    frame = pd.DataFrame({"a.spread": [1.5, 2, 4, 3], "a": [nan, 1, 2, 4.5], "row": [1.5, 2, 3, 5]})
    schema = infer(frame)
    x = coded(frame, schema)
    with pytest.warns(pv.PyroVAEWarning, match=r"spreads of 'a' are in a column 'a.spread.2'"):
        found = imputed(x.nan_to_num()[None], x.isnan(), schema, given=frame)
    assert found["a.spread"].tolist() == frame["a.spread"].tolist()
    assert found["a.spread.2"].notna().tolist() == [True, False, False, False]
    with pytest.warns(pv.PyroVAEWarning, match=r"rows are in a column 'row.2'"):
        found = imputed(x.nan_to_num()[None], x.isnan(), schema, given=frame, each=True)
    assert found["row"].tolist() == frame["row"].tolist()
    assert found["row.2"].tolist() == [0, 1, 2, 3]


def test_completed_keeps_what_is_there():
    x = torch.tensor([[1.0, torch.nan], [torch.nan, 2.0], [3.0, 4.0], [torch.nan, torch.nan]])
    whole = completed(x)
    assert torch.equal(whole, torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]))
    assert x.isnan().sum() == 4
