"""The scikit-learn estimator: scikit-learn's own checks, and what the numbers are."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

import pyro_vae as pv

pytestmark = [
    pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
    pytest.mark.filterwarnings("ignore:training made the model worse"),  # in two epochs
]

_SMALL = {"epochs": 2, "latent_dim": 2, "hidden": (8,), "samples": 20, "search": False}
_BY_PLACE = (
    "score_samples draws importance samples by the place of a row among the others, so that it is "
    "the same within its Monte-Carlo error; see test_scores_of_some_rows_agree"
)
_EXPECTED = {
    "check_methods_sample_order_invariance": _BY_PLACE,
    "check_methods_subset_invariance": _BY_PLACE,
}
_FEW = {
    "check_estimators_pickle",
    "check_fit_idempotent",
    "check_n_features_in_after_fitting",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
}


@pytest.fixture
def rows():
    """Rows of one factor: correlated, far from standard."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=(150, 1))
    return z @ np.array([[2.0, -1.0, 0.5]]) + 0.4 * generator.normal(size=(150, 3)) + 3


@pytest.mark.slow
def test_every_check_of_scikit_learn():
    results = check_estimator(
        pv.VAEDensity(**_SMALL), expected_failed_checks=_EXPECTED, on_skip=None
    )
    found = {result["check_name"]: result["status"] for result in results}
    assert {name for name, status in found.items() if status == "xfail"} == set(_EXPECTED)
    others = {status for name, status in found.items() if name not in _EXPECTED}
    assert others <= {"passed", "skipped"}  # skipped: array API, which is switched off


def test_some_checks_of_scikit_learn():
    done = set()
    for estimator, check in estimator_checks_generator(pv.VAEDensity(**_SMALL)):
        name = check.func.__name__
        if name in _FEW:
            check(estimator)
            done.add(name)
    assert done == _FEW


def test_scores_are_log_evidence_with_its_errors(rows):
    density = pv.VAEDensity(**_SMALL).fit(rows)
    vae = density.vae_
    evidence = pv.log_evidence(vae.model, vae.guide, torch.tensor(rows), samples=20)
    np.testing.assert_array_equal(density.score_samples(rows), evidence.corrected().numpy())
    assert density.score(rows) == density.score_samples(rows).mean()
    np.testing.assert_array_equal(
        density.evidence(rows).standard_error.numpy(), evidence.standard_error.numpy()
    )
    assert next(vae.parameters()).dtype == torch.float64
    single = pv.VAEDensity(**_SMALL).fit(rows.astype(np.float32))
    assert single.transform(rows).dtype == np.float32


def test_scores_of_some_rows_agree(rows):
    """Within Monte-Carlo errors, whatever rows are beside them; codes are the same."""
    density = pv.VAEDensity(**{**_SMALL, "samples": 400}).fit(rows)
    whole, part = density.evidence(rows), density.evidence(rows[100:])
    error = (whole.standard_error[100:].square() + part.standard_error.square()).sqrt()
    deviation = (whole.corrected()[100:] - part.corrected()) / error
    assert deviation.abs().max() < 4.5
    np.testing.assert_allclose(density.transform(rows)[100:], density.transform(rows[100:]))


def test_codes_reconstructions_and_draws(rows):
    for program, sizes in (("vae", [2]), ("top-down", [2, 1])):
        density = pv.VAEDensity(**_SMALL, program=program).fit(rows)
        codes = density.transform(rows)
        assert codes.shape == (150, sum(sizes))
        assert len(density.get_feature_names_out()) == sum(sizes)
        again = density.vae_.reconstruct(torch.tensor(rows))
        np.testing.assert_allclose(density.inverse_transform(codes), again.numpy())
    drawn = density.sample(50, random_state=3)
    assert drawn.shape == (50, 3)
    np.testing.assert_array_equal(drawn, density.sample(50, random_state=3))
    assert not np.array_equal(drawn, density.sample(50, random_state=4))


def test_pipelines_searches_and_copies(rows):
    pipeline = make_pipeline(StandardScaler(), pv.VAEDensity(**_SMALL))
    assert cross_val_score(pipeline, rows, cv=2).shape == (2,)
    back = pipeline.fit(rows).inverse_transform(pipeline.transform(rows))
    assert back.shape == rows.shape
    search = GridSearchCV(pv.VAEDensity(**_SMALL), {"prior": ["normal", "laplace"]}, cv=2)
    assert search.fit(rows).best_params_["prior"] in ("normal", "laplace")
    twin = clone(search.best_estimator_).fit(rows)
    np.testing.assert_array_equal(twin.score_samples(rows), search.score_samples(rows))
    loaded = pickle.loads(pickle.dumps(twin))
    np.testing.assert_array_equal(twin.transform(rows), loaded.transform(rows))


def test_images_and_early_stopping(digits):
    rows = digits.train.x[:60].flatten(1).numpy()
    given = {**_SMALL, "likelihood": "bernoulli", "event_shape": (8, 8)}
    density = pv.VAEDensity(**{**given, "epochs": 30}, patience=1, learning_rate=0.05).fit(rows)
    assert density.history_.stopped_early
    assert density.transform(rows).shape == (60, 2)
    assert density.inverse_transform(density.transform(rows)).shape == rows.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": "nromal"}, "unknown prior"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"event_shape": (2, 2)}, r"event_shape \(2, 2\) has 4 values; X has 3"),
        ({"program": "conditional"}, "needs labels"),
        ({"top_dim": 2}, "does not take top_dim"),
        ({"likelihood": "bernoulli"}, "outside the support"),
        ({"patience": 1, "validation_fraction": 0.001}, "sets 0 of n_samples = 150 aside"),
    ],
)
def test_wrong_settings_are_refused_by_fit(settings, message, rows):
    with pytest.raises(ValueError, match=message):
        pv.VAEDensity(**{**_SMALL, **settings}).fit(rows)


def test_settings_from_arrays_of_numpy(rows):
    found = pv.VAEDensity(**{**_SMALL, "samples": np.int64(20), "seed": np.int64(3)}).fit(rows)
    same = pv.VAEDensity(**{**_SMALL, "samples": 20, "seed": 3}).fit(rows)
    assert found.score(rows) == same.score(rows)


def test_wrong_use_is_refused(rows):
    density = pv.VAEDensity(**_SMALL)
    with pytest.raises(NotFittedError):
        density.sample()
    density.fit(rows)
    with pytest.raises(ValueError, match="codes have 3 columns; those of transform have 2"):
        density.inverse_transform(rows)
    with pytest.raises(TypeError, match="classes"):
        pv.VAEDensity(classes=3)
