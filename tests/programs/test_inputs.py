"""Data in a type that the programs take."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.programs.inputs import source_for


class Counts(nn.Module):
    """Poisson counts whose guide reads them through a linear layer: floating-point numbers."""

    def __init__(self):
        super().__init__()
        self.decode, self.encode = nn.Linear(2, 5), nn.Linear(5, 4)

    def read(self, x):
        return self.encode(x)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(self.decode(z).exp()).to_event(1), obs=x)

    def guide(self, x):
        moments = self.read(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(moments[:, :2], 0.3 * moments[:, 2:].exp()).to_event(1))


class Categories(Counts):
    """Looks its data up: they must stay integers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def read(self, x):
        return self.table(x).mean(1)


def _counts(rows=40):
    return torch.randint(0, 9, (rows, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.to(torch.uint8),
        lambda x: x.numpy(),
        lambda x: x.numpy().astype(np.float64),
        lambda x: x.int(),
    ],
    ids=["int64", "uint8", "numpy", "numpy float64", "int32"],
)
def test_fit_and_evidence_take_them_all(convert, no_unreliable_warning):
    """The same bits as of floating-point tensors."""
    results = []
    for data in (_counts().float(), convert(_counts())):
        torch.manual_seed(0)
        program = Counts()
        pv.fit(program, data, data, epochs=1, batch_size=16, device="cpu")
        found = pv.log_evidence(program.model, program.guide, data, samples=20)
        results.append((program.decode.weight, found.log_px))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_integers_stay_where_they_are_looked_up(no_unreliable_warning):
    program = Categories()
    source = source_for(_counts(), program.model, program.guide)
    assert next(source.blocks(3))[0].dtype == torch.int64
    pv.fit(program, _counts(), epochs=1, device="cpu")
    pv.log_evidence(program.model, program.guide, _counts(), samples=10)


def test_bytes_never_wrap_around():
    """2 x - 1 of bytes would be computed modulo 256."""
    program = Counts()
    program.read = lambda x: program.encode(2.0 * x - 1)
    x = _counts().to(torch.uint8)
    source = source_for(x, program.model, program.guide)
    assert next(source.blocks(3))[0].dtype == torch.float32
    doubles = Counts().double()
    assert next(source_for(x > 3, doubles.model, doubles.guide).blocks(3))[0].dtype == torch.float64


def test_a_loader_of_integers_trains():
    dataset = torch.utils.data.TensorDataset(_counts())
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    weights = []
    for data in (dataset, loader, list(_counts().split(8))):
        torch.manual_seed(0)
        program = Counts()
        history = pv.fit(program, data, epochs=2, batch_size=8, device="cpu")
        weights.append(program.decode.weight)
        assert np.isfinite(history.epochs[-1].train_elbo)
    assert all(not torch.equal(w, Counts().decode.weight) for w in weights)


def test_a_mask_may_be_an_array(no_unreliable_warning):
    x, program = _counts(), Counts()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[:, 0] = True
    one, two = (
        pv.log_evidence(program.model, program.guide, data, mask=m, samples=10).log_px
        for data, m in ((x.float(), mask), (x.numpy(), mask.numpy()))
    )
    assert torch.equal(one, two)


class Images(nn.Module):
    """Takes images with any number of dimensions before them, and so a single one, too."""

    def __init__(self):
        super().__init__()
        self.decode, self.encode = nn.Linear(2, 6), nn.Linear(6, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = self.decode(z).unflatten(-1, (2, 3))
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encode(x.flatten(-2)), 0.5).to_event(1))


def test_a_list_of_images_is_no_list_of_batches():
    program, x = Images(), torch.randn(12, 2, 3)
    for attempt in (
        lambda: pv.fit(program, list(x), epochs=1, device="cpu"),
        lambda: pv.log_evidence(program.model, program.guide, list(x), samples=10),
    ):
        with pytest.raises(ValueError, match=r"no batches to the model: .*\(2, 3\), .*stack\(x\)"):
            attempt()
    pv.fit(program, list(x.split(5)), epochs=1, device="cpu")
