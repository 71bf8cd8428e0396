"""A recorded function gives the bits of the function itself, or is not recorded."""

import linecache

import pytest
import torch

from pyro_vae.compiled import Recorded

SEEN = torch.tensor([True, False, True, True])
WEIGHT = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


class Counted:
    """A function that counts how often it is run itself."""

    def __init__(self, function):
        self.function, self.runs = function, 0

    def __call__(self, *tensors):
        self.runs += 1
        return self.function(*tensors)


def check(function, *, runs, arguments=1, calls=10):
    """Hold every call against the function; say how often it may be run itself."""
    generator = torch.Generator().manual_seed(0)
    counted = Counted(function)
    recorded = Recorded(counted)
    for _ in range(calls):
        tensors = [torch.randn(3, 4, generator=generator) for _ in range(arguments)]
        expected = function(*tensors)
        found = recorded(*tensors)
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
            assert not ours.requires_grad
    assert counted.runs == (calls + 1 if runs is None else runs)  # one was stopped midway


def plain(x, y):
    return (x * y).sum(-1), x[:, SEEN].exp() @ WEIGHT[:3] + y.mean()


def in_place(x):
    out = torch.zeros(3, 4)
    part = out[:, 1:]
    part.add_(x[:, 1:])
    out[0] = x[1].neg()
    total = torch.zeros(3, 4)
    before = total + x
    total.fill_(2.0)
    return (part * total[:, 1:], out, before)


def several_results(x):
    values, places = x.max(-1)
    first, second = x.split(2, -1)
    mean, error = torch.std_mean(x, -1)
    return values, places, first + second, mean / error


def gradient(x):
    with torch.enable_grad():
        w = x.detach().requires_grad_()
        hidden = torch.nn.functional.softplus(w @ WEIGHT)
        value = torch.logsumexp(hidden * hidden, -1) + hidden.tanh().sum(-1)
        (slope,) = torch.autograd.grad(value.sum(), w)
    return value.detach(), slope


def gradient_of_a_map(x):
    def one(row):
        return (row.sigmoid() * WEIGHT).sum().log()

    with torch.enable_grad():
        w = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.vmap(one)(w).nan_to_num().sum(), w)
    return (slope,)


def nothing_is_a_number(x):
    return (x.log(), x / (x > 0), torch.where(x > 0, x, torch.inf))


def lists_and_names(x):
    """Tensors within lists, beside None, and by name; nothing but plain numbers; nothing at all."""
    order = x.argsort(-1)
    found = torch.searchsorted(x, x + 0.1, sorter=order, right=True)
    joined = torch.cat([x, WEIGHT, torch.stack([x[0], x[1]])])[:, order[0]]
    return (
        found,
        joined,
        x,
        torch.zeros(2) + torch.empty(()).fill_(3.0),
        torch.clamp(x, max=x.T[0, 0]),
    )


@pytest.mark.parametrize(
    "function",
    [lists_and_names, in_place, several_results, gradient, gradient_of_a_map, nothing_is_a_number],
)
def test_is_repeated_to_the_bit(function):
    check(function, runs=4)


def test_of_two_arguments():
    check(plain, runs=4, arguments=2)


def test_what_is_the_same_for_all_is_looked_at_freely():
    """Lengths of sequences decide how many steps there are; they are no argument."""
    lengths = torch.tensor([2, 3])

    def steps(x):
        total = x * 0
        for _ in range(int(lengths.max())):
            total = total + x.sin()
        return (total if bool(SEEN.any()) else x,)

    check(steps, runs=4)


def test_each_shape_is_recorded_by_itself():
    counted = Counted(lambda x: (x.exp(),))
    recorded = Recorded(counted)
    for _ in range(10):
        for x in (torch.randn(2), torch.randn(5), torch.randn(2).double()):
            torch.testing.assert_close(recorded(x)[0], x.exp(), rtol=0, atol=0)
    assert counted.runs == 3 * 4


def branches(x):
    return (x.exp() if x.sum() > 0 else -x,)


def out_of_torch(x):
    return (torch.from_numpy(x.numpy() * 2),)


def by_lists(x):
    return (torch.tensor(x.tolist()) + 1,)


def chosen_by_a_mask(x):
    return (x[x > 0].sum(),)


class Rounded(torch.autograd.Function):
    """Its slope looks at values."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad * (2.0 if grad.sum() > 0 else 3.0)


def slope_that_looks(x):
    with torch.enable_grad():
        w = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((Rounded.apply(w) * x).sum(), w)
    return (slope,)


def goes_on_whatever_happens(x):
    try:
        positive = x.sum().item() > 0
    except BaseException:
        return (x * torch.nan,)
    return (x if positive else -x,)


def sparse(x):
    return (torch.sparse.mm(x.to_sparse(), WEIGHT),)


@pytest.mark.parametrize(
    "function",
    [
        branches,
        out_of_torch,
        by_lists,
        chosen_by_a_mask,
        slope_that_looks,
        goes_on_whatever_happens,
        sparse,
    ],
)
def test_what_looks_at_values_is_run_itself(function):
    check(function, runs=None, calls=20)


def test_nothing_stays_when_it_is_gone():
    """Torch keeps the source of every ``GraphModule`` for ever; evaluations record thousands."""

    def made():
        return {name for name in linecache.cache if name.startswith("<")}

    before = made()
    for _ in range(3):
        check(gradient, runs=4)
    assert made() <= before


def test_random_numbers_are_drawn_anew():
    recorded = Recorded(lambda x: (x + torch.rand(()),))
    found = torch.stack([recorded(torch.zeros(2))[0][0] for _ in range(10)])
    assert len(found.unique()) == 10


def test_what_changes_a_tensor_of_others_is_run_itself():
    count = torch.zeros(())

    def function(x):
        count.add_(1)
        return (x + count,)

    recorded = Recorded(function)
    found = [recorded(torch.zeros(1))[0].item() for _ in range(8)]
    assert found[3:] == [found[2] + n for n in range(1, 6)]  # one run was stopped at the write


def test_a_recording_that_another_call_contradicts_is_dropped():
    runs = []

    def function(x):
        runs.append(1)
        return (x + len(runs),)

    recorded = Recorded(function)
    assert [recorded(torch.zeros(1))[0].item() for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]


def test_large_work_is_not_recorded():
    """A recording holds all tensors of a call for a moment, which would be the most memory."""
    check(
        lambda x: (x.sum() + torch.zeros(2**26).sum() + torch.ones(2**26)[0],), runs=None, calls=5
    )
