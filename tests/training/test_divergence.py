"""Training that made a model worse, and what independent values would have."""

import math

import pytest
import torch

import pyro_vae as pv
from pyro_vae.training.history import Epoch, History


def _history(*elbos, start, baseline, restored=None):
    rows = [Epoch(n, elbo, math.nan, 1.0, 1e-3, 0.1) for n, elbo in enumerate(elbos, 1)]
    return History(rows, False, restored, start=start, baseline=baseline)


def test_baseline_is_the_entropy_of_independent_pixels(digits):
    """The mean of x log p + (1 - x) log(1 - p), summed over pixels, p clipped to [.001, .999]."""
    x = (digits.train.x[:300] > 0.5).float()
    config = pv.Config(latent_dim=2, hidden=(8,))
    vae = pv.VAE.from_config(config, event_shape=x.shape[1:], data=x)
    history = pv.fit(vae, x, epochs=1, device="cpu", progress=False)
    p = x.double().mean(0).clamp(1e-3, 1 - 1e-3)
    exact = (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1).mean().item()
    assert history.baseline == pytest.approx(exact, abs=1e-4)
    again = pv.VAE.from_config(config, event_shape=x.shape[1:], data=x)
    first = pv.ELBO().terms(again.model, again.guide, x)[1].item() / len(x)
    assert history.start == pytest.approx(first, abs=3)  # of one batch, another draw


def test_a_run_that_diverges_says_so(digits):
    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
    with pytest.warns(pv.PyroVAEWarning, match="ended far worse than it started"):
        history = pv.fit(vae, digits.train.x[:300], epochs=2, learning_rate=1e9, device="cpu")
    assert torch.isfinite(torch.tensor(history.columns()["train_elbo"])).all()


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (_history(-50.0, -30.0, start=-60.0, baseline=-40.0), None),
        (_history(-50.0, -45.0, start=-60.0, baseline=-40.0), None),  # on its way up
        (_history(-50.0, -70.0, start=-60.0, baseline=-40.0), "worse than none"),
        (_history(-62.0, -62.0, start=-60.0, baseline=-40.0), None),  # another batch
        (_history(-50.0, -70.0, start=-60.0, baseline=-40.0, restored=1), None),
        (_history(-50.0, -70.0, start=-60.0, baseline=math.nan), None),  # not known
        (_history(-50.0, -200.0, start=-60.0, baseline=math.nan), "far worse than it started"),
        (History(), None),
    ],
    ids=["better", "rising", "below both", "noise", "restored", "unknown", "diverged", "empty"],
)
def test_what_counts_as_failure(history, words):
    failure = history.failure()
    assert (failure is None) if words is None else words in failure
