"""The referee's runs give the recorded numbers; checkpoints of earlier versions still load."""

import json
from pathlib import Path

import pytest
import referee
import torch

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_OLD = Path(__file__).parent / "records" / "checkpoints"
_RECORD = json.loads(referee.RECORD.read_text())
_SMALL = pv.Config(latent_dim=2, hidden=(5,), epochs=1)
_SHAPE = {"event_shape": (8, 8)}


@pytest.mark.parametrize("name", referee.RUNS)
def test_numbers_are_those_recorded(name):
    exactly = _RECORD["machine"] == referee.machine()
    found = referee.differences(_RECORD["runs"][name], referee.run(name), exactly=exactly)
    assert list(found) == []


def test_the_referee_sees_a_change():
    old = {"parameters": "a", "log_px": [1.0, 2.0], "norm": 3.0}
    assert list(referee.differences(old, old, exactly=True)) == []
    assert list(referee.differences(old, {**old, "parameters": "b"}, exactly=True))
    assert list(referee.differences(old, {**old, "log_px": [1.0, 2.0000001]}, exactly=True))
    assert list(referee.differences(old, {**old, "log_px": [1.0, 2.01]}, exactly=False))
    assert list(referee.differences(old, {**old, "log_px": [1.0]}, exactly=False))


def _unconfigured(kind):
    """Models that the versions before could not describe by a config."""
    if kind == "conditional":
        return pv.ConditionalVAE.from_config(_SMALL, **_SHAPE, classes=10, learned_prior=True)
    if kind == "semi-supervised":
        return pv.SemiSupervisedVAE.from_config(_SMALL, **_SHAPE, classes=10)
    return pv.Masked(pv.VAE.from_config(_SMALL, **_SHAPE))


@pytest.mark.parametrize(
    "kind", ["vae", "bottom-up", "top-down", "conditional", "semi-supervised", "masked"]
)
def test_old_checkpoints_give_their_log_px(kind, digits):
    expected = torch.tensor(json.loads((_OLD / "log_px.json").read_text())[kind]).double()
    x, y = digits.test.x[:4], digits.test.y[:4]
    mask = torch.ones(4, 8, 8, dtype=torch.bool)
    mask[:, :4] = False
    data = {"conditional": (x, y), "semi-supervised": (x, y), "masked": (x, mask)}.get(kind, x)
    if (_OLD / kind / "config.json").exists():
        module = pv.load_run(_OLD / kind).vae
    else:
        module = _unconfigured(kind)
        state = pv.checkpoint.read(_OLD / kind / "checkpoint.pt")
        module.load_state_dict(state["parameters"])
    evidence = pv.log_evidence(module.model, module.guide, data, samples=50)
    torch.testing.assert_close(evidence.log_px, expected, rtol=1e-6, atol=1e-5)
