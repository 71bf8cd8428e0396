"""Models whose training diverged: a sentence instead of NaN or of torch's own error."""

import pytest
import torch

import pyro_vae as pv


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "negative-binomial"])
@pytest.mark.parametrize("method", ["sample", "reconstruct", "encode"])
def test_methods_say_so(likelihood, method):
    config = pv.Config(latent_dim=2, hidden=(4,), likelihood=likelihood)
    x = torch.ones(5, 3)
    vae = pv.VAE.from_config(config, event_shape=(3,), data=x)
    assert getattr(vae, method)(x if method != "sample" else 4).isfinite().all()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"gives NaN or infinite .* diverged .*parameter is inf"):
        getattr(vae, method)(x if method != "sample" else 4)


def test_other_errors_are_left_as_they_are():
    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(4,)), event_shape=(3,))
    with pytest.raises(ValueError, match="number of samples"):
        vae.sample(0)
