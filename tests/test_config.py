import json
import math
from typing import get_args

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae import config, data, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.common import options
from pyro_vae.common.settings import EvaluationSettings, TrainingSettings


def test_names_are_those_of_the_registries():
    assert set(get_args(options.PriorName)) == set(priors.PRIORS)
    assert set(get_args(options.LikelihoodName)) == set(likelihoods.LIKELIHOODS)
    assert set(get_args(options.PosteriorName)) == set(posteriors.POSTERIORS)
    assert set(get_args(options.NetworkName)) == set(networks.NETWORKS)
    assert set(get_args(options.ObjectiveName)) == set(objectives.OBJECTIVES)
    assert set(get_args(options.Activation)) == set(networks.ACTIVATIONS)
    assert "digits" in data.DATASETS


def test_round_trip_through_json():
    one = pv.Config(prior="mixture", prior_components=7, hidden=(3, 4), patience=2)
    assert pv.Config.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert one.options("prior") == {"components": 7}
    assert pv.Config().options("prior") == {}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("prior", "vamp", "vamp"),
        ("latent_dim", "8", 8),
        ("learning_rate", "1e-3", 1e-3),
        ("beta", "2", 2),
        ("likelihood_scale", "shared", "shared"),
        ("likelihood_scale", "0.5", 0.5),
        ("hidden", "20,10", (20, 10)),
        ("compiled", "true", True),
    ],
)
def test_settings_from_text(name, text, value):
    assert config.parse_setting(name, text) == value
    assert getattr(pv.Config.from_dict({name: value}), name) == value


def test_settings_from_wrong_text():
    with pytest.raises(ValueError, match=r"latent_dim cannot be '8\.5'"):
        config.parse_setting("latent_dim", "8.5")
    with pytest.raises(ValueError, match=r"no setting 'latent'.*Did you mean"):
        config.parse_setting("latent", "8")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"prior": "vmp"}, "'prior' cannot be 'vmp'"),
        ({"latent_dim": "3"}, "'latent_dim' cannot be '3'"),
        ({"latent_dim": True}, "'latent_dim' cannot be True"),
        ({"hidden": [1.5]}, "'hidden' cannot be"),
        ({"latent": 3}, r"no field 'latent'"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"hidden": [0]}, "hidden widths"),
    ],
)
def test_wrong_values(values, match):
    with pytest.raises(ValueError, match=match):
        pv.Config.from_dict(values)


def test_every_rule_is_kept_by_every_way_in():
    """A rule stands with its field, and holds for the settings of a fit as for a config."""
    for kind in (pv.Config, TrainingSettings):
        with pytest.raises(ValueError, match=r"unknown schedule 'cosin'.*Did you mean 'cosine'"):
            kind(schedule="cosin")
        with pytest.raises(ValueError, match="beta must not be negative; got -1"):
            kind(beta=-1)
        with pytest.raises(ValueError, match="patience counts from the end of the KL warm-up"):
            kind(patience=2, kl_warmup=5, epochs=5)
        with pytest.raises(ValueError, match="kl_cycles are within the warm-up"):
            kind(kl_cycles=2)
        with pytest.raises(ValueError, match="--compiled"):
            kind(precision="bfloat16")
        with pytest.raises(ValueError, match="learning_rate must be positive; got nan"):
            kind(learning_rate=math.nan)
    with pytest.raises(ValueError, match="likelihood_levels must be at least 2; got 1"):
        pv.Config(likelihood_levels=1)
    with pytest.raises(ValueError, match="samples must be at least 1; got 0"):
        EvaluationSettings(samples=0)


def test_training_settings_of_a_config():
    config = pv.Config(epochs=7, seed=3, latent_dim=2)
    assert config.training == TrainingSettings(epochs=7, seed=3)


def test_options_of_the_values_that_take_them():
    config = pv.Config(program="semi-supervised", labels=20, alpha=0.3, top_dim=4)
    assert options.takes(config, "labels")
    assert options.takes(config, "classes")
    assert not options.takes(config, "top_dim")
    assert set(options.not_taken(config, "program")) == {"top_dim"}
    assert set(options.not_taken(config, "objective")) == {"alpha"}
    with pytest.raises(ValueError, match=r"does not take top_dim=4; only 'bottom-up' and 'top-d"):
        options.check_taken(config, "program")
    options.check_taken(pv.Config(), "program")


def test_numbers_of_numpy_are_numbers_and_text_is_none():
    config = pv.Config(latent_dim=np.int64(3), learning_rate=np.float32(0.5), hidden=[np.int32(8)])
    assert config == pv.Config(latent_dim=3, learning_rate=0.5, hidden=(8,))
    assert pv.Config.from_dict(config.to_dict()) == config
    for name, value in (("latent_dim", "2"), ("epochs", 1.5), ("learning_rate", "x")):
        with pytest.raises(TypeError, match=rf"{name} must be a .*number; got {value!r}"):
            pv.Config(**{name: value})
    with pytest.raises(TypeError, match=r"hidden must be widths, such as .*; got '8'"):
        pv.Config(hidden="8")
