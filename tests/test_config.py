import json
from typing import get_args

import pytest

import pyro_vae as pv
from pyro_vae import config, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.common import options
from pyro_vae.data import sets as data


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
