from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from pyro_vae.common.plain import fits, misfits


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [0, 1.5, float("nan")], [True, "1", None]),
        (bool, [True], [1, None]),
        (str | None, ["", None], [0, b""]),
        (Literal["a", 2], ["a", 2], ["b", None]),
        (tuple[int, ...], [(), (1, 2)], [[1], (1.5,), (True,)]),
        (Sequence[int], [[], [1], (1, 2)], ["12", [None], {1}]),
        (list[dict[str, int]], [[], [{"a": 1}]], [[{"a": "b"}], [{1: 1}], {}]),
        (dict[str, Any], [{}, {"a": None}], [{1: 2}, [], "ab"]),
    ],
    ids=str,
)
def test_values_fit_types(hint, good, bad):
    assert all(fits(value, hint) for value in good)
    assert not any(fits(value, hint) for value in bad)


def test_entries_that_do_not_fit_are_named():
    class Entries(TypedDict):
        number: int
        names: list[str]
        more: NotRequired[int]

    assert misfits({"number": 1, "names": ["a"], "other": 3}, Entries) == []
    assert misfits({"number": 1, "names": ["a"], "more": 3}, Entries) == []
    assert fits({"number": 1, "names": []}, Entries)
    assert not fits({"number": 1}, Entries)
    wrong = misfits({"number": "x", "more": [0] * 99}, Entries)
    assert wrong == [
        "names is missing",
        "number is 'x'",
        "more is a list that does not fit",
    ]
