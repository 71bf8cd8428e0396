"""Discrete latents that the guide draws are summed out of both programs, on every rung."""

import functools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_vae as pv

PLACES = torch.tensor([-3.0, 0.0, 3.0]).double()
SHARES = torch.tensor([0.2, 0.5, 0.3]).double()
NOISE = 0.5
X = torch.linspace(-5, 5, 21).double()


def model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(SHARES))
        z = pyro.sample("z", dist.Normal(PLACES[c], 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def logits(x):
    return -((x[:, None] - PLACES) ** 2) / 4


def guide(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(logits=logits(x)))
        pyro.sample("z", dist.Normal(0.7 * x + 0.3 * PLACES[c], 0.7))


def of_components(x, scale):
    return SHARES.log() + dist.Normal(PLACES, scale).log_prob(x[:, None])


EXACT = of_components(X, math.hypot(1.0, NOISE)).logsumexp(-1)


def check(evidence, exact, *, most=0.05, errors=4.5):
    distance = (evidence.log_px - exact).abs()
    assert distance.max() < most
    assert (distance / (evidence.standard_error + 1e-6)).max() < errors


@pytest.mark.parametrize("method", ["auto", "refined", "laplace", "annealed"])
@pytest.mark.search
def test_mixture_in_closed_form(method, no_unreliable_warning):
    """Errors of a few thousandths; the search looks at annealed chains, too."""
    evidence = pv.log_evidence(model, guide, X, method=method, samples=2000)
    check(evidence, EXACT)
    assert evidence.search.annealed > 0
    assert evidence.search.skipped == ""


def test_weights_of_the_guide_vary_less_than_with_the_class_drawn():
    """Of the same draws (c, z) each has the mean weight of its z over c (Rao-Blackwell)."""

    def proposal(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=logits(x) / 2))
            pyro.sample("z", dist.Normal(0.8 * x + 0.2 * PLACES[c], 0.6))

    drawn = pv.log_evidence(model, proposal, X, samples=4000)
    summed = pv.log_evidence(model, proposal, X, samples=4000, method="auto", defensive=0.0)
    assert summed.rungs() == {"guide": len(X)}
    check(summed, EXACT)
    assert summed.ess.mean() > 1.1 * drawn.ess.mean()


@pytest.mark.search
def test_certificate_holds_the_exact_values():
    certificate = pv.certify(model, guide, X, number=200)
    assert abs(certificate.gap[0]) < 0.02
    assert certificate.within < 0.02
    # in expectation minus the entropy of x, here by quadrature
    grid = torch.linspace(-9, 9, 20001).double()
    log_p = of_components(grid, math.hypot(1.0, NOISE)).logsumexp(-1)
    entropy = -torch.trapezoid(log_p.exp() * log_p, grid)
    error = certificate.evidence.log_px.std() / math.sqrt(200)
    assert abs(certificate.evidence.log_px.mean() + entropy) < 4 * error


def test_compiled_programs():
    check(pv.log_evidence(model, guide, X, method="laplace", compiled=True), EXACT)


def test_nothing_is_left_to_be_drawn():
    """p(x) is exact where every latent is discrete: 2 x 3 values of both."""

    def crossed(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3).double()))
            c = pyro.sample("c", dist.Categorical(SHARES))
            pyro.sample("x", dist.Normal(PLACES[c] + a, NOISE), obs=x)

    def uniform(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(torch.ones(3).double() / 3))
            pyro.sample("a", dist.Bernoulli(torch.tensor(0.5).double()))

    terms = [math.log(share) + of_components(X - a, NOISE) for a, share in enumerate([0.7, 0.3])]
    exact = torch.cat(terms, -1).logsumexp(-1)
    evidence = pv.log_evidence(crossed, uniform, X, method="auto", samples=50)
    torch.testing.assert_close(evidence.log_px, exact)
    assert evidence.standard_error.max() < 1e-9
    with pytest.raises(ValueError, match="is discrete; use method='guide'"):
        pv.log_evidence(crossed, uniform, X, method="laplace")
    certificate = pv.certify(crossed, uniform, X, number=10)
    assert certificate.gap == (0.0, 0.0)
    assert certificate.within < 1e-6
    by_guide = pv.certify(crossed, uniform, X, number=10, method="guide")
    torch.testing.assert_close(by_guide.lower, certificate.lower)
    assert by_guide.within > 1e-3  # of the guide, which draws


class TestJoined:
    """Programs that join latents by ``torch.cat``, so that all need the same dimensions."""

    weight = torch.tensor([1.0, -3.0, 0.0, 3.0]).double()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            c = pyro.sample("c", dist.OneHotCategorical(SHARES))
            mean = torch.cat([z, c], -1) @ self.weight
            pyro.sample("x", dist.Normal(mean, NOISE), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.OneHotCategorical(logits=logits(x)))
            loc = 0.8 * (x - c @ self.weight[1:])
            pyro.sample("z", dist.Normal(loc[..., None], 0.5).to_event(1))

    def test_is_exact(self):
        check(pv.log_evidence(self.model, self.guide, X, method="auto", samples=2000), EXACT)

    def test_is_certified(self):
        assert pv.certify(self.model, self.guide, X, number=50).within < 0.05


class TestGiven:
    """A guide that draws the class alone that is given: log p(x, c), not log p(x)."""

    c = torch.where(torch.arange(len(X)) % 2 == 0, -1, torch.arange(len(X)) % 3)

    @staticmethod
    def model(x, c):
        model(x)

    @staticmethod
    def guide(x, c, by="logits"):
        with pyro.plate("data", len(x)):
            known = torch.nn.functional.one_hot(c.clamp_min(0), 3).double()
            q = torch.where((c >= 0)[:, None], known, (logits(x) / 2).softmax(-1))
            q = {"logits": q.log()} if by == "logits" else {"probs": q}
            c = pyro.sample("c", dist.Categorical(**q))
            pyro.sample("z", dist.Normal(0.8 * x + 0.2 * PLACES[c], 0.6))

    @property
    def exact(self):
        terms = of_components(X, math.hypot(1.0, NOISE))
        return torch.where(self.c < 0, EXACT, terms[torch.arange(len(X)), self.c.clamp_min(0)])

    @pytest.mark.search
    @pytest.mark.parametrize("by", ["logits", "probs"])
    @pytest.mark.parametrize("method", ["guide", "auto"])
    def test_stays_given(self, method, by, no_unreliable_warning):
        """(Draws of the prior had other classes, by up to 13 nats; simulated data have, too.)"""
        guide = functools.partial(self.guide, by=by)
        evidence = pv.log_evidence(self.model, guide, (X, self.c), method=method, samples=4000)
        check(evidence, self.exact)
        assert "are given" in evidence.search.skipped
        with pytest.raises(ValueError, match="leave defensive out"):
            pv.log_evidence(self.model, guide, (X, self.c), method=method, defensive=0.1)

    def test_is_no_class_to_sum_over(self):
        with pytest.raises(ValueError, match="'c' is discrete"):
            pv.log_evidence(self.model, self.guide, (X, self.c), method="laplace")

    def test_none_is_given_where_all_are_unknown(self):
        unknown = torch.full_like(self.c, -1)
        check(
            pv.log_evidence(self.model, self.guide, (X, unknown), method="laplace", samples=2000),
            EXACT,
        )

    def test_items_of_events(self):
        """Two bits of one event, both given."""
        bits = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]).double()
        x = torch.tensor([0.3, 1.0, 3.0]).double()

        def program(x, bits):
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Bernoulli(torch.tensor([0.2, 0.6])).to_event(1))
                pyro.sample("x", dist.Normal(b.double().sum(-1), 1.0), obs=x)

        def point(x, bits):
            with pyro.plate("data", len(x)):
                pyro.sample("b", dist.Bernoulli(bits.float()).to_event(1))

        prior = dist.Bernoulli(torch.tensor([0.2, 0.6])).to_event(1).log_prob(bits.float())
        exact = prior.double() + dist.Normal(bits.sum(-1), 1.0).log_prob(x)
        evidence = pv.log_evidence(program, point, (x, bits), method="auto", samples=200)
        torch.testing.assert_close(evidence.log_px, exact, rtol=1e-5, atol=1e-5)


def test_latents_that_are_there_by_a_class_are_left_to_the_guide():
    """z counts in the first class only, so that the sum has terms of unlike latents."""

    def switched(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.4).double()))
            with poutine.mask(mask=c == 0):
                z = pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 1.0))
            pyro.sample("x", dist.Normal(torch.where(c == 0, z, 2.0), NOISE), obs=x)

    def proposal(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5).double()))
            with poutine.mask(mask=c == 0):
                pyro.sample("z", dist.Normal(0.8 * x, 0.6))

    wide = math.log(0.6) + dist.Normal(0.0, math.hypot(1.0, NOISE)).log_prob(X)
    exact = torch.logaddexp(wide, math.log(0.4) + dist.Normal(2.0, NOISE).log_prob(X))
    check(pv.log_evidence(switched, proposal, X, method="auto", samples=4000), exact, most=0.2)
    with pytest.raises(ValueError, match=r"discrete|depends on other latents"):
        pv.log_evidence(switched, proposal, X, method="laplace")


def test_programs_that_mean_something_else_by_all_values_at_once_are_left_to_the_guide():
    def looks(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(SHARES))
            places = PLACES[c] if c.dim() == 1 else PLACES[c] + 1
            z = pyro.sample("z", dist.Normal(places, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    check(pv.log_evidence(looks, guide, X, method="auto", samples=4000), EXACT, most=0.2)
    with pytest.raises(ValueError, match="'c' is discrete"):
        pv.log_evidence(looks, guide, X, method="laplace")


def test_items_of_an_inner_plate():
    """Each item has a class of its own; marked, since all of them are too many to compare."""
    marked = {"enumerate": "parallel"}

    def items(x, guided=False):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0))
            with pyro.plate("items", x.shape[1], dim=-1):
                probs = torch.ones(3).double() / 3 if guided else SHARES
                c = pyro.sample("c", dist.Categorical(probs), infer=marked)
                if not guided:
                    pyro.sample("x", dist.Normal(PLACES[c] + z, NOISE), obs=x)

    x = torch.tensor([[-3.1, 0.2, 2.5], [0.4, 3.0, 0.1], [4.0, -2.0, 0.5]]).double()
    z = torch.linspace(-8, 8, 4001).double()
    terms = SHARES.log() + dist.Normal(PLACES, NOISE).log_prob(
        x[:, None, :, None] - z[:, None, None]
    )
    log_joint = dist.Normal(0.0, 1.0).log_prob(z) + terms.logsumexp(-1).sum(-1)
    exact = log_joint.logsumexp(-1) + math.log(z[1] - z[0])
    evidence = pv.log_evidence(
        items, lambda x: items(x, guided=True), x, method="auto", samples=4000
    )
    check(evidence, exact)


def test_whole_data_sets():
    """One class and one place for all data: log p(D) of three normals."""

    def shared(x):
        c = pyro.sample("c", dist.Categorical(SHARES))
        z = pyro.sample("z", dist.Normal(PLACES[c], 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 2.0), obs=x)

    def proposal(x):
        c = pyro.sample("c", dist.Categorical(torch.ones(3).double() / 3))
        pyro.sample("z", dist.Normal(PLACES[c], 1.0))

    x = torch.tensor([0.4, 2.2, 1.0]).double()
    covariance = torch.ones(3, 3).double() + 4 * torch.eye(3).double()
    parts = dist.MultivariateNormal(PLACES[:, None].expand(3, 3), covariance).log_prob(x)
    exact = (SHARES.log() + parts).logsumexp(0)
    for method in ("auto", "laplace"):
        check(pv.log_evidence(shared, proposal, x, method=method, samples=4000), exact)
    assert pv.certify(shared, proposal, x, number=8).within < 0.2


def test_draws_keep_the_class():
    """What is asked for draws of the posterior draws the class, as the guide does."""
    draws = pv.sample_posterior(model, guide, X, 200, samples=4000)
    terms = of_components(X, math.hypot(1.0, NOISE))
    share = (draws["c"] == 2).double().mean(0)
    exact = terms.softmax(-1)[:, 2]
    # 200 draws, and the weights they were resampled by
    error = (exact * (1 - exact) * (1 / 200 + 1 / draws.ess)).sqrt()
    assert ((share - exact).abs() < 4.5 * error + 2e-3).all()


class TestOtherThings:
    """Programs whose sums are not what they seem: ``auto`` stays with what the guide draws."""

    @pytest.mark.parametrize("reads", ["neighbour", "share"])
    def test_items_that_read_each_other(self, reads):
        """Marked to be enumerated, which Pyro would sum item by item; exact over all 2^3 values."""
        marked = {"enumerate": "parallel"}

        def seen(c):
            return c.roll(1, -1) if reads == "neighbour" else c + c.mean(-1, keepdim=True)

        def items(x, guided=False):
            with pyro.plate("data", len(x), dim=-2), pyro.plate("items", 3, dim=-1):
                share = torch.tensor([0.5, 0.5] if guided else [0.8, 0.2]).double()
                c = pyro.sample("c", dist.Categorical(share), infer=marked)
                if not guided:
                    shift = 2 * torch.arange(3).double()
                    pyro.sample("x", dist.Normal(seen(c.double()) + shift, NOISE), obs=x)

        x = torch.tensor([[0.1, 2.9, 4.2], [1.2, 2.0, 4.9], [0.5, 2.2, 5.1]]).double()
        c = torch.cartesian_prod(*[torch.arange(2)] * 3)
        log_p = dist.Categorical(torch.tensor([0.8, 0.2]).double()).log_prob(c).sum(-1)
        means = seen(c.double()) + 2 * torch.arange(3).double()
        log_p = log_p + dist.Normal(means, NOISE).log_prob(x[:, None]).sum(-1)
        given = (items, functools.partial(items, guided=True), x)
        check(pv.log_evidence(*given, method="auto", samples=20_000), log_p.logsumexp(-1))
        with pytest.raises(ValueError, match="'c' is discrete"):
            pv.log_evidence(*given, method="laplace")

    def test_all_values_of_several_draws(self):
        """A program that takes the values' dimension for another one if draws have one, too."""

        def looks(x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Categorical(SHARES))
                z = pyro.sample("z", dist.Normal(PLACES[c] + (c.dim() > 2), 1.0))
                pyro.sample("x", dist.Normal(z, NOISE), obs=x)

        check(pv.log_evidence(looks, guide, X, method="auto", samples=4000), EXACT, most=0.2)
        with pytest.raises(ValueError, match="'c' is discrete"):
            pv.log_evidence(looks, guide, X, method="laplace")

    def test_latents_that_are_there_by_a_class_for_late_data(self):
        """z counts in the first class only, of the last of 70 data."""
        flag = torch.arange(70) < 69

        def switched(x, flag):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.4).double()))
                with poutine.mask(mask=(c == 0) | flag):
                    z = pyro.sample("z", dist.Normal(c / 2, 1.0))
                there = (c == 0) | flag
                pyro.sample("x", dist.Normal(torch.where(there, z, 2.0), NOISE), obs=x)

        def proposal(x, flag):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5).double()))
                with poutine.mask(mask=(c == 0) | flag):
                    pyro.sample("z", dist.Normal(0.8 * x + 0.1 * c, 0.6))

        x = torch.linspace(-2, 3, 70).double()
        x[69] = 2.0
        wide = math.hypot(1.0, NOISE)
        first = math.log(0.6) + dist.Normal(0.0, wide).log_prob(x)
        second = torch.where(
            flag, dist.Normal(0.5, wide).log_prob(x), dist.Normal(2.0, NOISE).log_prob(x)
        )
        exact = torch.logaddexp(first, math.log(0.4) + second)
        given = (switched, proposal, (x, flag))
        check(pv.log_evidence(*given, method="auto", samples=4000), exact, most=0.2)
        with pytest.raises(ValueError, match=r"discrete|depends on other latents"):
            pv.log_evidence(*given, method="laplace")


_CODES = {
    "one-hot": lambda y: torch.nn.functional.one_hot(y, 3).double(),
    "from one": lambda y: y + 1,
    "column": lambda y: torch.stack([torch.zeros(len(y)), y.double()], -1),
    "float": lambda y: y.double(),
}
_NUMBERS = {
    "one-hot": lambda code: code.argmax(-1),
    "from one": lambda code: code - 1,
    "column": lambda code: code[:, 1].long(),
    "float": lambda code: code.long(),
}


class TestGivenByOtherCodes:
    """A known class is known however it is told: by its number, one-hot, in a column, from 1."""

    y = torch.tensor([0, 2, 1, 2, 0, 1, 1, 0, 2])
    x = torch.linspace(-4, 4, 9).double()

    @pytest.mark.parametrize("scale", [math.inf, 1e9])
    @pytest.mark.parametrize("code", _CODES)
    @pytest.mark.parametrize("equal", [True, False])
    def test_is_given(self, code, scale, equal):
        y = torch.full_like(self.y, 1) if equal else self.y
        number = _NUMBERS[code]

        def program(x, code):
            model(x)

        def point(x, code):
            with pyro.plate("data", len(x)):
                known = torch.nn.functional.one_hot(number(code), 3).double()
                away = torch.where(known > 0, 0.0, -scale)
                c = pyro.sample("c", dist.Categorical(logits=away))
                pyro.sample("z", dist.Normal(0.8 * x + 0.2 * PLACES[c], 0.6))

        exact = of_components(self.x, math.hypot(1.0, NOISE))[torch.arange(9), y]
        given = (program, point, (self.x, _CODES[code](y)))
        check(pv.log_evidence(*given, method="auto", samples=2000), exact)

    @pytest.mark.search
    def test_a_sure_guide_is_no_given_class(self):
        """An argument that is the class by chance, of a guide that draws from the data alone."""

        def program(x, group):
            model(x)

        def sure(x, group):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Categorical(logits=40 * logits(x)))
                pyro.sample("z", dist.Normal(0.8 * x + 0.2 * PLACES[c], 0.6))

        group = (self.x[:, None] - PLACES).abs().argmin(1)
        exact = of_components(self.x, math.hypot(1.0, NOISE)).logsumexp(-1)
        given = (program, sure, (self.x, group))
        with pytest.warns(pv.UnreliableEvidence):
            by_guide = pv.log_evidence(*given, samples=200)
        assert by_guide.search.simulated_missed > 0
        check(pv.log_evidence(*given, method="auto", samples=4000), exact)

    @pytest.mark.search
    @pytest.mark.parametrize("hole", ["one for all", "best for the data"])
    def test_a_guide_that_leaves_classes_out_gives_none(self, hole):
        """One class for all data, or the likeliest of each with a say of an argument: a miss."""

        def program(x, group):
            model(x)

        def narrow(x, group):
            best = torch.ones(len(x), dtype=torch.long)
            if hole == "best for the data":
                best = (logits(x) + 2.0 * torch.nn.functional.one_hot(group, 3)).argmax(-1)
            with pyro.plate("data", len(x)):
                q = torch.nn.functional.one_hot(best, 3).double()
                c = pyro.sample("c", dist.Categorical(q))
                pyro.sample("z", dist.Normal(0.8 * x + 0.2 * PLACES[c], 0.6))

        group = torch.arange(9) % 3
        exact = of_components(self.x, math.hypot(1.0, NOISE)).logsumexp(-1)
        given = (program, narrow, (self.x, group))
        with pytest.warns(pv.UnreliableEvidence):
            by_guide = pv.log_evidence(*given, samples=200)
        assert by_guide.search.simulated_missed > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pv.UnreliableEvidence)
            check(pv.log_evidence(*given, defensive=0.5, samples=20_000), exact, most=0.5)
