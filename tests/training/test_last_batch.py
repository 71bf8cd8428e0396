"""The last batch of an epoch, where it would be too small for batch normalization."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.data import as_source


class Normalized(nn.Module):
    """A guide with batch normalization, or without; sizes of the batches of training are kept."""

    def __init__(self, norm=True):
        super().__init__()
        between = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.encode = nn.Sequential(nn.Linear(3, 6), between, nn.Tanh(), nn.Linear(6, 2))
        self.decode = nn.Linear(1, 3)
        self.sizes = []

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        if self.training:
            self.sizes.append(len(x))
        moments = self.encode(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(moments[:, :1], moments[:, 1:].exp()).to_event(1))


def _fit(program, data, **settings):
    return pv.fit(program, data, device="cpu", **{"epochs": 2, "batch_size": 8, **settings})


@pytest.mark.parametrize("kind", ["tensor", "dataset"])
def test_a_single_datum_joins_the_batch_before(kind):
    x = torch.randn(25, 3)
    data = x if kind == "tensor" else TensorDataset(x)
    program, plain = Normalized(), Normalized(norm=False)
    _fit(program, data)
    assert program.sizes == 2 * [8, 8, 9]
    _fit(plain, data)
    assert plain.sizes == 2 * [8, 8, 8, 1]  # nothing changes where one datum will do
    left = Normalized()
    _fit(left, data, batch_size=23)
    assert left.sizes == 2 * [23, 2]
    whole = Normalized()
    _fit(whole, data, batch_size=24, compiled=True)
    assert set(whole.sizes) == {25}


def test_an_epoch_is_all_data_once():
    x = torch.arange(26.0).reshape(13, 2)
    for data in (x, TensorDataset(x)):
        source = as_source(data, lambda x: None)
        for size, least, sizes in ((6, 2, [6, 7]), (6, 1, [6, 6, 1]), (5, 4, [5, 8]), (4, 2, None)):
            generator = torch.Generator().manual_seed(3)
            parts = [x for (x,) in source.shuffled(size, generator, slice(None), least=least)]
            assert sizes is None or [len(part) for part in parts] == sizes
            assert len(parts) == source.steps(size, least=least)
            assert len(parts[0]) == source.largest(size, least=least)
            together = torch.cat(parts)
            assert torch.equal(together.sort(0).values, x)
            generator = torch.Generator().manual_seed(3)
            plain = torch.cat([x for (x,) in source.shuffled(size, generator, slice(None))])
            assert torch.equal(together, plain)  # in the same order


def test_killed_run_of_joined_batches_resumes_to_the_same_bits(tmp_path, monkeypatch):
    from pyro_vae.training import loop

    x, states = torch.randn(25, 3), []
    torch.manual_seed(0)
    first = Normalized()
    start = {k: v.clone() for k, v in first.state_dict().items()}
    _fit(first, x, seed=4, out=tmp_path / "whole")
    train_step, steps = loop.Loop._train_step, []

    def dies(self, batch):
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(len(batch[0]))
        train_step(self, batch)

    monkeypatch.setattr(loop.Loop, "_train_step", dies)
    second = Normalized()
    second.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        _fit(second, x, seed=4, out=tmp_path / "cut", checkpoint_seconds=0.0)
    assert steps == [8, 8, 9, 8, 8]
    monkeypatch.undo()
    third = Normalized()
    _fit(third, x, seed=4, out=tmp_path / "cut", resume=True)
    states = [first.state_dict(), third.state_dict()]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_where_a_single_datum_cannot_be_helped():
    x = torch.randn(9, 3)
    with pytest.raises(ValueError, match=r"step 1 has 1 datum, .*batch_size=2 or more"):
        _fit(Normalized(), x, batch_size=1)
    with pytest.raises(ValueError, match=r"step 2 has 1 datum, .*drop_last=True"):
        _fit(Normalized(), DataLoader(TensorDataset(x), batch_size=8))
    with pytest.raises(ValueError, match="step 1 has 1 datum"):
        _fit(Normalized(), x[:1])


def test_checks_leave_running_statistics_alone():
    """Only batches that are trained on count in them; 4097 data are checked in two blocks."""
    program = Normalized()
    _fit(program, torch.randn(4097, 3), epochs=1, batch_size=2048)
    assert program.sizes == [2048, 2049]
    assert program.encode[1].num_batches_tracked == 2
    assert program.training
