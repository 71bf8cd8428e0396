"""log p(x) against a setting: what is drawn is what was given."""

import math

import numpy as np
import pytest

from pyro_vae import plots

_GIVEN = {
    "values": [16, 2, 4],
    "log_px": [-20.0, -23.0, -21.0],
    "seed_errors": [0.2, 0.1, 0.3],
    "sampling_errors": [0.5, 0.6, 0.4],
    "alike": [True, False, True],
    "each": [[-20.2, -19.8], [-23.1, -22.9], [-21.3, -20.7]],
    "active": [[9, 10], [2, 2], [4, 4]],
    "name": "latent dim",
}


def _draw(**changed):
    given = _GIVEN | changed
    first = [given.pop(k) for k in ("values", "log_px", "seed_errors", "sampling_errors")]
    return plots.evidence_by_value(*first, **given)


def test_errors_points_and_units_are_drawn(tmp_path):
    figure = _draw()
    left, right = figure.axes
    assert left.get_xscale() == "log"
    assert [label.get_text() for label in left.get_xticklabels()] == ["2", "4", "16"]
    bars = {c.get_label(): c for c in left.collections}
    segments = np.array(bars["± s.e. of seeds"].get_segments())
    np.testing.assert_allclose(segments[0], [[16, -20.2], [16, -19.8]])
    np.testing.assert_allclose(
        np.array(bars["± s.e. of data"].get_segments())[1, :, 1], [-23.6, -22.4]
    )
    np.testing.assert_allclose(bars["best, or alike"].get_offsets(), [[16, -20], [4, -21]])
    np.testing.assert_allclose(bars["worse"].get_offsets(), [[2, -23]])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [2, 4, 9.5])
    assert "16 is highest" in figure.get_suptitle()
    assert plots.save(figure, tmp_path / "f.png").stat().st_size > 10_000


def test_one_seed_has_no_error_of_seeds_and_close_values_no_logarithm():
    figure = _draw(
        values=[3, 2, 4], seed_errors=[math.nan] * 3, each=[[-20], [-23], [-21]], active=None
    )
    [axes] = figure.axes
    assert axes.get_xscale() == "linear"
    assert "± s.e. of seeds" not in {c.get_label() for c in axes.collections}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": []}, "values: a filled array"),
        ({"log_px": [1.0]}, r"log_px: shape \(3,\)"),
        ({"each": [[1.0]]}, "alike and each: 3 of each"),
    ],
)
def test_wrong_input(changed, message):
    with pytest.raises(ValueError, match=message):
        _draw(**changed)
