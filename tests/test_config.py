import json
from typing import get_args

import pytest

import pyro_vae as pv
from pyro_vae import config, data, likelihoods, networks, posteriors, priors


def test_names_are_those_of_the_registries():
    assert set(get_args(config.PriorName)) == set(priors.PRIORS)
    assert set(get_args(config.LikelihoodName)) == set(likelihoods.LIKELIHOODS)
    assert set(get_args(config.PosteriorName)) == set(posteriors.POSTERIORS)
    assert set(get_args(config.Activation)) == set(networks.ACTIVATIONS)
    assert "digits" in data.DATASETS


def test_round_trip_through_json():
    one = pv.Config(prior="mixture", prior_components=7, hidden=(3, 4), patience=2)
    assert pv.Config.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert one.prior_options == {"components": 7}
    assert pv.Config().prior_options == {}


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
