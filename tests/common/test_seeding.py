import itertools

import pytest
import torch

import pyro_vae as pv
from pyro_vae.common.seeding import derive, seeded


def test_no_two_streams_are_alike():
    keys = [(), (0,), (0, 0), (0, 0, 0), (1,), (2**32,), (0, 1), (1, 0), (2**32, 1), (0, 2**32 + 1)]
    seeds = [derive(name, *key) for name, key in itertools.product(("a", "b"), keys)]
    assert len(set(seeds)) == len(seeds)
    assert derive("a", 1, 2) == derive("a", 1, 2)


def test_block_is_reproducible_and_leaves_the_caller_alone():
    state = torch.get_rng_state()
    with seeded("a", 3):
        first = torch.rand(4)
    with seeded("a", 3):
        assert torch.equal(torch.rand(4), first)
    with seeded("b", 3):
        assert not torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("key", [-1, 1.5, None, True, 2**64])
def test_keys_are_checked(key):
    with pytest.raises(ValueError, match="non-negative integer"):
        derive("a", key)


def test_data_sampled_under_a_seed_are_independent_of_evidence_under_it():
    """Prior as guide on data sampled with the same seed: not the draws that made the data."""
    decoder = pv.networks.MLP((8,), (30,), hidden=())
    with torch.no_grad():
        decoder.output.weight.mul_(8)
    prior = pv.priors.StandardNormal(8)

    class Guide(torch.nn.Module):
        def forward(self, x):
            return prior().expand((*x.shape[:-1],))

    vae = pv.VAE(prior, pv.likelihoods.Normal(decoder, (30,), scale=0.3), Guide())
    x = vae.sample(64, seed=0)
    means = []
    for seed in (0, 1):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pv.UnreliableEvidence)
            result = pv.log_evidence(vae.model, vae.guide, x, samples=64, seed=seed)
        means.append(result.mean())
    spread = (means[0].sampling_error ** 2 + means[1].sampling_error ** 2) ** 0.5
    assert abs(means[0].value - means[1].value) < 4 * spread
