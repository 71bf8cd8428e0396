"""Programs called with more than data: by name, nested, with what is the same for all data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
LABELS = (X.sum(1) > 0).float()


class Program(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(3, 4).double(), nn.Linear(2, 3).double()

    def model(self, x, scale=1.0, *, labels=None, extra=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)
            if labels is not None:
                pyro.sample("labels", dist.Bernoulli(logits=z[..., 0]), obs=labels)
            if extra is not None:
                pyro.sample("extra", dist.Normal(z[..., 1], 1.0), obs=extra["parts"][0])

    def guide(self, x, scale=1.0, *, labels=None, extra=None):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            scales = nn.functional.softplus(raw)
            pyro.sample("z", dist.Normal(loc, scales).to_event(1))


class Fixed:
    """The same programs with the other arguments filled in, as a reference."""

    def __init__(self, program, **beside):
        self.program, self.beside = program, beside

    def model(self, x):
        self.program.model(x, **self.beside)

    def guide(self, x):
        self.program.guide(x, **self.beside)


def log_px(program, data, **options):
    options = {"samples": 200, "method": "laplace", **options}
    return pv.log_evidence(program.model, program.guide, data, **options)


def test_numbers_and_none_are_the_same_for_all_data():
    program, x = Program(), X.double()
    expected = log_px(Fixed(program, scale=0.5), x).log_px
    assert not torch.allclose(expected, log_px(program, x).log_px)
    for data in ((x, 0.5), {"x": x, "scale": 0.5}, {"x": x, "scale": 0.5, "labels": None}):
        found = log_px(program, data)
        torch.testing.assert_close(found.log_px, expected)
        assert len(found) == 40
    given = (x, torch.tensor(0.5).double())  # without dimensions, it is no datum
    torch.testing.assert_close(log_px(program, given).log_px, expected)


def test_rows_in_nested_arguments():
    program, x = Program(), X.double()

    class Nested:
        def model(self, x, extra):
            program.model(x, extra={"parts": [extra]})

        def guide(self, x, extra):
            program.guide(x)

    expected = log_px(Nested(), (x, LABELS.double())).log_px
    data = {"extra": {"parts": [LABELS.double(), "a name"]}, "x": x}
    torch.testing.assert_close(log_px(program, data).log_px, expected)


def test_training_uses_every_argument():
    x = X.double()
    for beside in ({"labels": LABELS.double()}, {"scale": 0.5}):
        one, two = Program(), Program()
        pv.fit(one, {"x": x, **beside}, epochs=2, batch_size=40, seed=3)
        torch.manual_seed(0)
        fixed = Fixed(two, **beside)
        start = Program().decoder.weight
        optimizer = torch.optim.Adam(two.parameters(), lr=1e-3)
        loss, _ = pv.ELBO().terms(fixed.model, fixed.guide, x)
        loss.backward()
        optimizer.step()
        assert not torch.equal(one.decoder.weight, start)
        assert list(one.state_dict()) == list(two.state_dict())
    plain, labelled = Program(), Program()
    losses = [
        pv.fit(program, data, epochs=1, seed=0).epochs[0].train_elbo
        for program, data in ((plain, x), (labelled, {"x": x, "labels": LABELS.double()}))
    ]
    assert losses[1] < losses[0] - 0.3  # a label costs some .7 nats more


def test_validation_with_other_arguments_is_refused():
    x = X.double()
    with pytest.raises(ValueError, match=r"training data come with 0\.5 .* data with 0\.7"):
        pv.fit(Program(), (x, 0.5), valid=(x, 0.7), epochs=1)


def test_certify_keeps_them():
    program, x = Program(), X.double()
    options = {"number": 8, "samples": 100, "seed": 1}
    one = pv.certify(program.model, program.guide, (x, 0.5), **options)
    fixed = Fixed(program, scale=0.5)
    two = pv.certify(fixed.model, fixed.guide, x, **options)
    torch.testing.assert_close(one.lower, two.lower)
    torch.testing.assert_close(one.evidence.log_px, two.evidence.log_px)


def test_handlers_as_decorators():
    """``poutine.scale(scale=...)`` over a function has no signature of its own."""
    program, x = Program(), X.double()
    expected = log_px(program, x).log_px

    @pyro.poutine.scale(scale=0.1)
    def model(x):
        program.model(x)

    found = pv.log_evidence(model, program.guide, x, samples=200, method="laplace")
    torch.testing.assert_close(found.log_px, expected)


def test_a_list_of_numbers_for_each_datum_is_refused():
    program, x = Program(), X.double()
    for data in ((x, [0.5] * 40), {"x": x, "scale": [1] * 40}):
        with pytest.raises(
            TypeError, match="list of 40 numbers, one for each datum; give a tensor"
        ):
            log_px(program, data)


class TestOneDictionary:
    """``model(batch)`` with a dictionary of tensors: rows of all of them are the data."""

    x = torch.linspace(-1, 1, 8)
    seen = torch.arange(8) % 3 > 0

    def model(self, batch):
        with pyro.plate("data", len(batch["x"])):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5).mask(batch["seen"]), obs=batch["x"])

    def guide(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(0.8 * batch["x"] * batch["seen"], 0.8))

    def test_log_evidence(self):
        data = {"seen": self.seen, "x": self.x}
        evidence = pv.log_evidence(self.model, self.guide, data, samples=3000, method="auto")
        exact = dist.Normal(0.0, 1.25**0.5).log_prob(self.x.double()) * self.seen
        assert ((evidence.log_px - exact).abs() < 4 * evidence.standard_error + 1e-3).all()

    def test_fit_leaves_a_mask_that_comes_first_a_mask(self):
        data = {"seen": self.seen, "x": self.x}

        def guide(batch):
            scale = pyro.param("scale", torch.tensor(0.8))
            with pyro.plate("data", len(batch["x"])):
                assert batch["seen"].dtype == torch.bool
                pyro.sample("z", dist.Normal(0.8 * batch["x"] * batch["seen"], scale))

        program = pv.as_program(self.model, guide, data)
        history = pv.fit(program, data, epochs=2, device="cpu", progress=False)
        assert math.isfinite(history.epochs[-1].train_elbo)

    def test_one_that_the_programs_do_not_take(self):
        with pytest.raises(TypeError, match="x is a dict"):
            pv.log_evidence(self.model, self.guide, {"y": self.x})


def test_fit_takes_arguments_of_lengths_of_their_own_for_one_data_set():
    """m of all data, by AutoNormal: the ELBO of an exact guide is log p(D)."""
    prior, y = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0, 1.5])

    def model(settings, y, number):
        m = pyro.sample("m", dist.Normal(settings["prior"][0], settings["prior"][1]))
        with pyro.plate("data", number):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def guide(settings, y, number):
        pyro.sample("m", dist.Normal(y.sum() / 4, pyro.param("s", torch.tensor(0.5))))

    data = ({"prior": prior}, y, 3)
    program = pv.as_program(model, guide, *data)
    history = pv.fit(program, data, epochs=2, learning_rate=1e-9, device="cpu", progress=False)
    covariance = torch.eye(3) + 1.0
    exact = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(y).item()
    assert abs(history.epochs[-1].train_elbo - exact) < 1e-3


class TestNumberOfData:
    """Programs that are told how many data there are, and broadcast over no draws."""

    def model(self, x, number, power=1):
        with pyro.plate("data", x.size(0), subsample_size=number):
            z = pyro.sample("z", dist.Normal(torch.zeros(number).double(), 1.0))
            mean = torch.cat([z[:, None], z[:, None]], 1).sum(1).reshape(number)
            pyro.sample("x", dist.Normal(mean**power, 1.0), obs=x)

    def guide(self, x, number, power=1):
        with pyro.plate("data", x.size(0), subsample_size=number):
            pyro.sample("z", dist.Normal(0.4 * x, torch.full((number,), 0.5).double()))

    @pytest.mark.parametrize("rows", [4, 100])
    @pytest.mark.parametrize("method", ["guide", "laplace"])
    def test_follows_the_data(self, rows, method):
        """x ~ N(0, 5), also in blocks of 64."""
        x = torch.linspace(-4, 4, rows).double()
        evidence = pv.log_evidence(self.model, self.guide, (x, rows), method=method)
        exact = dist.Normal(0.0, math.sqrt(5)).log_prob(x)
        distance = (evidence.log_px - exact).abs()
        assert distance.max() < 0.1
        assert (distance / evidence.standard_error.clamp_min(1e-4)).max() < 4.5

    def test_a_number_that_merely_is_as_large_stays(self):
        """Data of one number, with a power that is the number of data, too."""

        def model(x, power):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 0.1))
                pyro.sample("x", dist.Normal((1 + z) ** power, 1.0), obs=x)

        def guide(x, power):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.1))

        x, z = torch.linspace(0, 3, 4).double(), torch.linspace(-1, 1, 4001).double()
        log_joint = dist.Normal(0.0, 0.1).log_prob(z) + dist.Normal((1 + z) ** 4, 1.0).log_prob(
            x[:, None]
        )
        exact = log_joint.logsumexp(1) + math.log(z[1] - z[0])
        evidence = pv.log_evidence(model, guide, (x, 4), samples=4000)
        assert ((evidence.log_px - exact) / evidence.standard_error).abs().max() < 4.5

    def test_another_number_is_refused(self):
        x = torch.linspace(-4, 4, 8).double()
        with pytest.raises(ValueError, match="take 4 data at once and no other number"):
            pv.log_evidence(self.model, self.guide, (x, 4))
