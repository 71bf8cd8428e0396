"""Figures: what they show is what they were given."""

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pyro_vae import plots
from pyro_vae.plots import style

RNG = np.random.default_rng(0)
PICTURES = RNG.uniform(size=(5, 14, 14))
HISTORY = {
    "epoch": list(range(1, 101)),
    "train_elbo": [-90.0 - 400 * math.exp(-e / 4) for e in range(1, 101)],
    "valid_elbo": [None if e % 2 else -92.0 - 400 * math.exp(-e / 4) for e in range(1, 101)],
}


CURVES = {
    "ranks": {"guide": RNG.beta(0.5, 0.5, size=(200, 2)), "weighted": RNG.uniform(size=(200, 2))},
    "inside": {"guide": [False, True], "weighted": [True, True]},
    "band": ([0.25, 0.5, 0.75], [0.15, 0.4, 0.65], [0.35, 0.6, 0.85]),
    "names": ("z[0]", "z[1]"),
}


def canvas(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def axis_labels(axes):
    return zip(axes.get_yticklabels(), axes.get_yticks().tolist(), strict=True)


def texts(axes):
    return {text.get_text(): text for text in axes.texts}


CALLS = {
    "images": lambda: plots.images(PICTURES, labels=list("abcde")),
    "histogram": lambda: plots.images(RNG.normal(size=(30, 1))),
    "scatter": lambda: plots.images(RNG.normal(size=(30, 2))),
    "table": lambda: plots.images(RNG.normal(size=(30, 7))),
    "series": lambda: plots.images(RNG.normal(size=(3, 9, 2))),
    "reconstructions": lambda: plots.reconstructions(PICTURES, PICTURES),
    "learning_curves": lambda: plots.learning_curves(
        {"a": HISTORY}, evidence={"a": (-89.0, 0.1, -91.0)}
    ),
    "latent_space": lambda: plots.latent_space(RNG.normal(size=(20, 5)), np.arange(20) % 3),
    "manifold": lambda: plots.manifold(RNG.uniform(size=(3, 4, 8, 8)), extent=(-1, 1, -1, 1)),
    "comparison": lambda: plots.comparison(
        ["a", "b"], [-2.0, -1.0], [0.1, 0.1], differences=[-1.0, 0.0], difference_errors=[0.1, 0.0]
    ),
    "evidence_diagnostics": lambda: plots.evidence_diagnostics([-1.0, -2.0], [0.1, 0.9]),
    "interpolation": lambda: plots.interpolation(RNG.uniform(size=(5, 2, 8, 8))),
    "predictive_checks": lambda: plots.predictive_checks(
        {"mean": RNG.normal(size=50)}, {"mean": 0.1}, {"mean": 0.9}
    ),
    "calibration_curves": lambda: plots.calibration_curves(**CURVES),
}


@pytest.mark.parametrize("name", CALLS)
def test_global_state_is_untouched_and_the_callers_style_ignored(name, tmp_path):
    theirs = {"figure.facecolor": "black", "font.size": 30.0, "axes.spines.top": True}
    with matplotlib.rc_context(theirs):
        before = dict(matplotlib.rcParams)
        figure = CALLS[name]()
        plots.save(figure, tmp_path / "figure.png")
        assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    assert not any(axes.spines["top"].get_visible() and axes.get_frame_on() for axes in figure.axes)
    assert figure.get_suptitle()


def test_global_state_is_untouched_by_an_error():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError, match="columns"):
        plots.images(PICTURES, columns=0)
    assert dict(matplotlib.rcParams) == before


def test_title_is_the_given_one_and_an_empty_one_leaves_it_out():
    assert plots.images(PICTURES).get_suptitle() == "5 pictures"
    assert plots.images(PICTURES, title="Digits").get_suptitle() == "Digits"
    assert plots.images(PICTURES, title="").get_suptitle() == ""


def test_images_puts_every_pixel_in_its_place_on_white():
    shown = canvas(plots.images(PICTURES, columns=3))
    expected = np.ones((2 * 14 + 1, 3 * 14 + 2))
    for index, picture in enumerate(PICTURES):
        row, column = divmod(index, 3)
        expected[row * 15 : row * 15 + 14, column * 15 : column * 15 + 14] = picture
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(
    "same",
    [
        PICTURES.reshape(5, 196),
        PICTURES[:, None],
        PICTURES.tolist(),
        torch.tensor(PICTURES, requires_grad=True),
    ],
)
def test_images_takes_every_form_of_pictures(same):
    np.testing.assert_array_equal(canvas(plots.images(same)), canvas(plots.images(PICTURES)))


def test_images_takes_half_precision():
    x = torch.rand(2, 8, 8).bfloat16()
    np.testing.assert_array_equal(canvas(plots.images(x)), canvas(plots.images(x.double())))


def test_images_shows_colour_and_clips():
    x = RNG.uniform(-0.4, 1.4, size=(2, 3, 14, 14))
    shown = canvas(plots.images(x, columns=2))
    assert shown.shape == (14, 29, 3)
    np.testing.assert_array_equal(shown[:, 15:], x[1].transpose(1, 2, 0).clip(0, 1))
    np.testing.assert_array_equal(canvas(plots.images(x[:1, 0])), x[0, 0].clip(0, 1))


def test_images_writes_each_label_beneath_its_picture():
    axes = plots.images(PICTURES, columns=3, labels=torch.arange(5)).axes[0]
    for index, text in enumerate(axes.texts):
        row, column = divmod(index, 3)
        x, y = text.get_position()
        assert text.get_text() == str(index)
        assert x == column * 15 + 6.5
        assert row * 19 + 13.5 < y < (row + 1) * 19 - 0.5
    assert len(axes.texts) == 5


def test_images_without_pictures_draws_the_data():
    one, two, many = RNG.normal(size=(30, 1)), RNG.normal(size=(30, 2)), RNG.normal(size=(30, 9))
    assert sum(bar.get_height() for bar in plots.images(one).axes[0].patches) == 30
    points = plots.images(two).axes[0].collections[0].get_offsets()
    assert set(map(tuple, points)) == set(map(tuple, two))
    grid = np.reshape(plots.images(many).axes, (6, 6))
    assert not any(axes.lines for axes in grid.ravel())
    for row, column in np.ndindex(6, 6):
        axes = grid[row, column]
        assert axes.get_visible() == (column <= row)
        if row == column:
            assert sum(bar.get_height() for bar in axes.patches) == 30
        elif column < row:
            shown = axes.collections[0].get_offsets()
            np.testing.assert_array_equal(shown, many[:, [column, row]])


def test_series_are_lines_and_no_pictures():
    x = RNG.normal(size=(5, 20, 2)).cumsum(1)
    panels = [axes for axes in plots.images(x).axes if axes.get_visible()]
    assert len(panels) == 5
    for one, axes in zip(x, panels, strict=True):
        assert not axes.images
        np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], one.T)
    assert plots.images(RNG.poisson(9, size=(2, 20, 3))).axes[0].lines
    assert plots.images(RNG.normal(0.5, 0.2, size=(2, 20, 20))).axes[0].images  # noisy pixels
    assert plots.are_pictures(PICTURES)
    assert not plots.are_pictures(x)


def test_whole_numbers_have_a_bar_each():
    counts = RNG.poisson(3, size=(200, 1))
    bars = plots.images(counts).axes[0].patches
    heights = np.bincount(counts[:, 0], minlength=int(counts.max()) + 1)[counts.min() :]
    assert [bar.get_height() for bar in bars] == heights.tolist()


def test_flat_whole_numbers_beyond_one_are_features_and_binary_ones_pixels():
    counts = np.arange(32.0).reshape(2, 16)
    assert not plots.images(counts).axes[0].images
    assert plots.images(counts % 2).axes[0].images


def test_reconstructions_lie_beneath_their_data():
    mean = 1 - PICTURES
    figure = plots.reconstructions(PICTURES, mean)
    shown, axes = canvas(figure), figure.axes[0]
    assert shown.shape == (29, 74)
    for n in range(5):
        np.testing.assert_array_equal(shown[:14, 15 * n : 15 * n + 14], PICTURES[n])
        np.testing.assert_array_equal(shown[15:, 15 * n : 15 * n + 14], mean[n])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["data", "reconstruction"]
    np.testing.assert_array_equal(axes.get_yticks(), [6.5, 21.5])


def test_reconstructions_wrap_after_ten():
    x = RNG.uniform(size=(12, 14, 14))
    figure = plots.reconstructions(x, x / 2)
    top = 29 + 5
    np.testing.assert_array_equal(canvas(figure)[top : top + 14, 15:29], x[11])
    np.testing.assert_array_equal(canvas(figure)[top + 15 :, 15:29], x[11] / 2)
    np.testing.assert_array_equal(figure.axes[0].get_yticks(), [6.5, 40.5, 21.5, 55.5])


def test_reconstructions_of_features_are_drawn_against_them():
    x = RNG.normal(size=(6, 3))
    axes = plots.reconstructions(x, 2 * x).axes[0]
    points = axes.collections[0].get_offsets()
    assert set(map(tuple, points)) == set(zip(x.ravel(), 2 * x.ravel(), strict=True))
    assert (axes.lines[0].get_xy1(), axes.lines[0].get_slope()) == ((0, 0), 1)


def test_learning_curves_mark_band_and_gap():
    axes = plots.learning_curves({"a": HISTORY}, evidence={"a": (-88.5, 0.2, -91.5)}).axes[0]
    assert texts(axes).keys() >= {
        "gap 3.00 nats",
        "log p(x) −88.50 ± 0.20",
        "train −90.00",
        "validation −92.00",
        "test ELBO −91.50",
    }
    (band,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert (band.get_y(), band.get_height()) == pytest.approx((-88.7, 0.4))
    (arrow,) = [text for text in axes.texts if text.get_text() == ""]
    ends = arrow.xy[1], arrow.get_position()[1]
    assert ends == pytest.approx((-88.5, -91.5), abs=1e-6)
    (level,) = {tuple(line.get_ydata()) for line in axes.lines if line.get_color() == "#d9541e"}
    assert level == (-91.5, -91.5)  # where the arrow ends
    epochs, values = axes.lines[2].get_data()
    np.testing.assert_array_equal(epochs, range(2, 101, 2))
    np.testing.assert_array_equal(values, HISTORY["valid_elbo"][1::2])


def test_learning_curves_cut_the_first_epochs_and_keep_the_rest():
    figure = plots.learning_curves({"a": HISTORY}, evidence={"a": (-80, 0.2, -83)})
    low, high = figure.axes[0].get_ylim()
    assert HISTORY["train_elbo"][9] < low < min(HISTORY["valid_elbo"][21::2])
    assert high > -79.6


def test_learning_curves_keep_labels_apart():
    history = {"epoch": range(30), "train_elbo": [-9.0] * 10 + [-1.0] * 20}
    history["valid_elbo"] = [y - 0.01 for y in history["train_elbo"]]
    axes = plots.learning_curves({"a": history}, evidence={"a": (-0.99, 0.001, -1.0)}).axes[0]
    low, high = axes.get_ylim()
    heights = sorted(text.get_position()[1] for text in axes.texts if text.get_text())
    assert len(heights) == 5
    assert np.diff(heights).min() > 0.07 * (high - low)


def test_learning_curves_without_validation():
    history = {**HISTORY, "valid_elbo": [None] * 100}
    axes = plots.learning_curves({"a": history}, evidence={"a": (-88.5, 0.2, -91.5)}).axes[0]
    assert set(texts(axes)) >= {"gap 3.00 nats", "log p(x) −88.50 ± 0.20", "train −90.00"}
    assert not any("validation" in text for text in texts(axes))


def test_learning_curves_draw_models_on_one_scale():
    other = {"epoch": [1, 2, 3], "train_elbo": [-200.0, -150.0, -140.0]}
    figure = plots.learning_curves({"a": HISTORY, "b": other})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert not any("gap" in text for axes in figure.axes for text in texts(axes))


def test_latent_space_names_classes_at_their_centroids():
    codes, labels = RNG.normal(size=(40, 2)), np.arange(40) % 4 + 3
    axes = plots.latent_space(torch.tensor(codes), torch.tensor(labels)).axes[0]
    for kind in range(3, 7):
        place = texts(axes)[str(kind)].get_position()
        np.testing.assert_allclose(place, codes[labels == kind].mean(0))
    points = axes.collections[0]
    colours = dict(zip(map(tuple, points.get_offsets()), points.get_facecolors(), strict=True))
    for code, label in zip(codes, labels, strict=True):
        expected = to_rgba(style.CLASSES[label - 3], 0.6)
        np.testing.assert_allclose(colours[tuple(code)], expected)


def test_latent_space_without_labels_names_no_class():
    axes = plots.latent_space(RNG.normal(size=(9, 2)), axis_names=("u", "v")).axes[0]
    assert len(axes.texts) == 0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("u", "v")


def test_latent_space_projects_to_principal_components_and_states_their_share():
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    axes = plots.latent_space(signs * [1.0, 3.0, 2.0] + 7).axes[0]
    assert axes.get_xlabel() == "component 1 (64% of variance)"
    assert axes.get_ylabel() == "component 2 (29%)"
    points = np.abs(axes.collections[0].get_offsets())
    np.testing.assert_allclose(points, np.tile([3.0, 2.0], (8, 1)))


def test_manifold_is_seamless_and_its_ticks_lie_on_the_pictures():
    grid = RNG.uniform(size=(3, 5, 8, 8))
    figure = plots.manifold(grid, extent=(-2, 2, -1, 1))
    np.testing.assert_array_equal(canvas(figure), np.block([list(row) for row in grid]))
    axes = figure.axes[0]
    across = {tick.label1.get_text(): tick.get_loc() for tick in axes.xaxis.get_major_ticks()}
    down = {tick.label1.get_text(): tick.get_loc() for tick in axes.yaxis.get_major_ticks()}
    assert across == pytest.approx({"−2": 3.5, "−1": 11.5, "0": 19.5, "1": 27.5, "2": 35.5})
    assert down["1"] == pytest.approx(3.5)
    assert down["−1"] == pytest.approx(19.5)


def test_manifold_of_one_picture_has_one_tick():
    axes = plots.manifold(PICTURES[None, :1], extent=(0.5, 0.5, 2, 2)).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5"]
    assert not plots.manifold(PICTURES[None]).axes[0].get_xticks().size


def test_interpolation_runs_from_left_to_right():
    frames = RNG.uniform(size=(5, 2, 8, 8))
    figure = plots.interpolation(frames)
    shown = canvas(figure)
    assert shown.shape == (17, 40)
    for step in range(5):
        for pair in range(2):
            place = shown[9 * pair : 9 * pair + 8, 8 * step : 8 * step + 8]
            np.testing.assert_array_equal(place, frames[step, pair])
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert (ticks[0], ticks[-1]) == ("0", "1")


def test_picture_rows_are_tiled_and_named():
    pictures = RNG.uniform(size=(4, 3, 14, 14))
    axes = Figure().add_subplot()
    plots.picture_rows(axes, pictures, ["data", "samples"])
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (4 * 15 - 1, 3 * 15 - 1)
    for row in range(4):
        for column in range(3):
            top, left = 15 * row, 15 * column
            tile = shown[top : top + 14, left : left + 14]
            np.testing.assert_array_equal(tile, pictures[row, column])
    assert (shown[14::15] == 1).all()  # white between them
    names = {label.get_text(): place for label, place in axis_labels(axes)}
    assert names == {"data": 14.0, "samples": 44.0}  # the middles of two rows each


def test_picture_rows_show_missing_pixels_in_blue():
    pictures = torch.rand(1, 2, 8, 8)
    pictures[0, 1, 2] = torch.nan
    axes = Figure().add_subplot()
    plots.picture_rows(axes, pictures)
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (8, 17, 3)
    hole = shown[2, 9:17]
    assert (hole[:, 2] > hole[:, 0]).all()
    grey = np.delete(shown, 2, axis=0)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert len(axes.get_yticks()) == 0


def test_comparison_ranks_best_first():
    names, values, errors = ["low", "top", "mid"], [-9.0, -7.0, -7.5], [0.2, 0.1, 0.3]
    figure = plots.comparison(
        names, values, errors, differences=[-2.0, math.nan, -0.5], difference_errors=[0.04, 0, 0.05]
    )
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["top", "mid", "low"]
    bottom, top = left.get_ylim()
    assert top < 0 < bottom
    points = left.collections[-1].get_offsets()
    np.testing.assert_allclose(points, [[-7, 0], [-7.5, 1], [-9, 2]])
    bars = [segment[:, 0] for segment in left.collections[1].get_segments()]
    np.testing.assert_allclose(bars, [[-7.1, -6.9], [-7.8, -7.2], [-9.2, -8.8]])
    assert list(texts(left)) == ["−7.00 ± 0.10", "−7.50 ± 0.30", "−9.00 ± 0.20"]
    assert list(texts(right)) == ["best", "−0.50 ± 0.05", "−2.00 ± 0.04"]
    gaps = right.collections[-1].get_offsets().filled(math.nan)
    np.testing.assert_allclose(gaps[:, 0], [0, -0.5, -2])


def test_comparison_shows_more_digits_only_if_every_error_is_small():
    small = plots.comparison(["a", "b"], [-1.0, -2.0], [0.001, 0.004]).axes
    mixed = plots.comparison(["a", "b"], [-1.0, -2.0], [0.001, 0.4]).axes
    assert len(small) == 1
    assert list(texts(small[0])) == ["−1.000 ± 0.001", "−2.000 ± 0.004"]
    assert list(texts(mixed[0])) == ["−1.00 ± 0.00", "−2.00 ± 0.40"]


def test_comparison_leaves_its_input_alone():
    differences = np.array([-1.0, 5.0])
    plots.comparison(["a", "b"], [-2.0, -1.0], [0.1, 0.1], differences=differences)
    np.testing.assert_array_equal(differences, [-1.0, 5.0])


def test_evidence_diagnostics_without_any_pareto_k_has_one_panel():
    (only,) = plots.evidence_diagnostics([-1.0, -2.0, -4.0], [math.nan] * 3).axes
    assert sum(bar.get_height() for bar in only.patches) == 3


def test_evidence_diagnostics_counts_data_and_those_above_the_limit():
    log_px = RNG.normal(size=12)
    pareto_k = [0.1] * 6 + [0.7, 0.71, 0.9, math.inf, math.nan, math.nan]
    left, right = plots.evidence_diagnostics(log_px, pareto_k).axes
    assert sum(bar.get_height() for bar in left.patches) == 12
    assert left.lines[0].get_xdata()[0] == pytest.approx(log_px.mean())
    error = log_px.std(ddof=1) / math.sqrt(12)
    expected = f"mean {log_px.mean():.2f} ± {error:.2f}".replace("-", "−")
    assert left.get_title(loc="left") == expected
    assert right.get_title(loc="left") == "3 of 12 doubtful"
    assert "2 without" in right.get_xlabel()
    heights = {True: 0, False: 0}
    for bar in right.patches:
        heights[to_hex(bar.get_facecolor()) == style.ORANGE] += bar.get_height()
    assert heights == {True: 3, False: 7}


def test_evidence_diagnostics_shows_each_doubt_in_its_colour():
    """A datum is drawn once, by its first reason, and counted by all."""
    doubts = {
        "heavy tail": [True, True, False, False, False, False],
        "few draws": [False] * 6,
        "rounding": [False, True, True, False, False, False],
    }
    figure = plots.evidence_diagnostics(RNG.normal(size=6), [0.2] * 6, doubts=doubts, limit=0.4)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["trusted: 3", "heavy tail: 2", "rounding: 2"]
    colours = [to_hex(handle.get_facecolor()) for handle in legend.legend_handles]
    assert len(set(colours)) == 3
    for axes in figure.axes:
        heights = dict.fromkeys(colours, 0)
        for bar in axes.patches:
            heights[to_hex(bar.get_facecolor())] += bar.get_height()
        assert [heights[colour] for colour in colours] == [3, 2, 1]
    assert figure.axes[1].get_title(loc="left") == "3 of 6 doubtful"
    assert figure.axes[1].lines[0].get_xdata()[0] == 0.4
    fine = plots.evidence_diagnostics([-1.0, -2.0], [0.2, 0.3], doubts={"missed": [False, False]})
    assert not fine.legends
    assert fine.axes[1].get_title(loc="left") == "all 2 trusted"


def test_comparison_says_whose_estimates_are_doubtful():
    names, means = ["a", "b", "c"], [-3.0, -1.0, -2.0]
    figure = plots.comparison(names, means, [0.1] * 3, doubtful=[0.5, 0.0, 0.001])
    (axes,) = figure.axes
    said = [(round(t.xy[1]), t.get_text()) for t in axes.texts if "doubtful" in t.get_text()]
    assert said == [(1, "1% doubtful"), (2, "50% doubtful")]  # best on top
    faces = [to_hex(colour) for colour in axes.collections[-1].get_facecolors()]
    assert [face == "#ffffff" for face in faces] == [False, False, True]


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("PDF", b"%PDF"), ("svg", b"<?xml")]
)
def test_save_writes_the_format_of_the_suffix(tmp_path, suffix, start):
    path = tmp_path / f"figure.{suffix}"
    assert plots.save(plots.images(PICTURES), str(path)) == path
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_save_writes_200_dpi(tmp_path):
    path = plots.save(CALLS["comparison"](), tmp_path / "figure.png")
    with path.open("rb") as file:
        pixels = plt.imread(file).shape[1]
    inches = CALLS["comparison"]().get_figwidth()
    assert pixels == pytest.approx(200 * inches, rel=0.1)


def test_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure, written = plots.images(PICTURES), []

    def broken(file, **options):
        written.append(file.write(b"half"))
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert written == [4]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_other_formats(tmp_path):
    with pytest.raises(ValueError, match=r"suffix \.png, \.pdf or \.svg; got .*figure\.gif"):
        plots.save(plots.images(PICTURES), tmp_path / "figure.gif")
    assert list(tmp_path.iterdir()) == []


ONES = np.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.images([]), "x: a filled array; got shape"),
        (lambda: plots.images([[1.0, math.nan]]), "x: finite numbers"),
        (lambda: plots.images([[1.0], [1.0, 2.0]]), "x: a rectangular array"),
        (lambda: plots.images([["a"]]), "x: a rectangular array"),
        (lambda: plots.images(255 * np.ones((1, 4, 4))), "whole numbers up to 255"),
        (lambda: plots.images(PICTURES, labels=[1]), r"labels: shape \(5,\); got \(1,\)"),
        (lambda: plots.images(PICTURES, columns=0), "columns: at least 1; got 0"),
        (lambda: plots.reconstructions(PICTURES, PICTURES[:2]), r"mean: shape \(5, 14, 14\)"),
        (lambda: plots.learning_curves({}), "at least one"),
        (lambda: plots.learning_curves({"a": HISTORY}, evidence={"b": (0, 1, -1)}), r"got \['b'\]"),
        (lambda: plots.learning_curves({"a": {"epoch": [1]}}), "a: a finite train_elbo"),
        (lambda: plots.learning_curves({"a": {"train_elbo": [1]}}), "a: epoch"),
        (
            lambda: plots.learning_curves({"a": {"epoch": [1], "train_elbo": [1, 2]}}),
            r"a: train_elbo: shape \(1,\); got \(2,\)",
        ),
        (lambda: plots.latent_space(np.ones((3, 1))), r"\(N, D\).*got \(3, 1\)"),
        (lambda: plots.latent_space(np.ones((3, 2)), [0, 1]), r"labels: shape \(3,\)"),
        (lambda: plots.manifold(np.ones((3, 8, 8))), r"\(rows, columns, H, W\); got \(3, 8, 8\)"),
        (lambda: plots.manifold(PICTURES[None], extent=(0, 1)), r"extent: shape \(4,\)"),
        (lambda: plots.interpolation(np.ones((3, 8, 8))), r"\(steps, N, H, W\); got \(3, 8, 8\)"),
        (
            lambda: plots.picture_rows(Figure().add_subplot(), np.ones((3, 8, 8))),
            r"\(rows, columns, H, W\); got \(3, 8, 8\)",
        ),
        (
            lambda: plots.picture_rows(Figure().add_subplot(), PICTURES[None, :4], ["a", "b"]),
            "names: as many as rows, 1, or a divisor of it; got 2",
        ),
        (
            lambda: plots.picture_rows(Figure().add_subplot(), np.full((1, 2, 8, 8), np.inf)),
            "NaN for missing ones; got infinity",
        ),
        (lambda: plots.comparison(["a"], ONES, ONES), r"values: shape \(1,\); got \(2,\)"),
        (lambda: plots.comparison(["a", "b"], ONES, -ONES), "none below 0"),
        (
            lambda: plots.comparison(["a", "b"], ONES, ONES, difference_errors=ONES),
            "differences with their errors; got None",
        ),
        (lambda: plots.evidence_diagnostics(ONES, [0.1]), r"pareto_k: shape \(2,\); got \(1,\)"),
        (lambda: plots.evidence_diagnostics([math.inf], [0.1]), "log_px: finite numbers"),
    ],
)
def test_wrong_input_is_refused_with_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_replicates_are_bars_and_the_data_a_line():
    values = {"mean": RNG.normal(size=200), "most": RNG.poisson(30, size=200).astype(float)}
    figure = plots.predictive_checks(
        values, {"mean": 0.1, "most": 90.0}, {"mean": 0.9, "most": 0.0}, misfits=["most"]
    )
    for axes, (name, given) in zip(figure.axes, values.items(), strict=True):
        bars = [p for p in axes.patches if isinstance(p, Rectangle)]
        assert sum(bar.get_height() for bar in bars) == 200
        assert bars[0].get_x() <= given.min()
        assert axes.get_title(loc="left") == name
        (line,) = axes.lines
        low, high = axes.get_xlim()
        assert low < line.get_xdata()[0] < high
    usual, misfit = (to_hex(axes.lines[0].get_color()) for axes in figure.axes)
    assert (usual, misfit) == (style.TEAL, style.ORANGE)
    assert figure.axes[1].get_xlabel() == "p < 0.001"
    assert "1 of 2 statistics tell of misfit" in figure.get_suptitle()
    width = figure.axes[1].patches[0].get_width()  # of whole numbers
    assert width == pytest.approx(round(width))


def test_ranks_are_curves_in_their_band():
    figure = plots.calibration_curves(**CURVES)
    left, middle, right = figure.axes
    coloured = [to_hex(line.get_color()) for line in left.lines]
    assert coloured.count(style.ORANGE) == coloured.count(style.BLUE) == 1
    assert [text.get_text() for text in left.texts] == ["z[0]"]
    assert not middle.texts
    assert "guide: 1 of 2" in left.get_title(loc="left")
    ranks = CURVES["ranks"]["guide"][:, 0]
    (bad,) = (line for line in left.lines if to_hex(line.get_color()) == style.ORANGE)
    expected = [(ranks <= t).mean() - t for t in (0.25, 0.5, 0.75)]
    assert bad.get_ydata()[1:-1].tolist() == pytest.approx(expected)
    _, guide, weighted = (line.get_ydata() for line in right.lines)
    half = (abs(CURVES["ranks"]["guide"] - 0.5) <= 0.25).mean()
    assert guide[20] == pytest.approx(half)
    assert guide[20] < weighted[20]
    with pytest.raises(ValueError, match="two kinds of draws"):
        plots.calibration_curves(CURVES["ranks"], {"guide": [True, True]}, band=CURVES["band"])
