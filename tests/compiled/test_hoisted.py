"""Compiled functions, part of which is computed once."""

import copy

import pytest
import torch
from torch import nn

from pyro_vae.compiled import HoistedFunction, products


class _Decoded(nn.Module):
    """An encoder of x, noise, and a decoder of both with z."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.decoder = nn.Linear(4, 6)
        self.register_buffer("shift", torch.tensor(0.5))

    def forward(self, z, x):
        mean = self.encoder(x).tanh() + self.shift
        noisy = z + mean + torch.randn(z.shape)
        return self.decoder(noisy), (noisy * x[:, :4]).sum(-1)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return _Decoded()


def _function(module, **options):
    z, x = torch.zeros(5, 3, 4), torch.randn(3, 6)
    return HoistedFunction(module, moving=(z,), fixed=(x,), **options), x


def test_returns_what_the_module_returns(module):
    function, _ = _function(module)
    for seed in range(3):
        z, x = torch.randn(5, 3, 4), torch.randn(3, 6)
        torch.manual_seed(seed)
        expected = module(z, x)
        torch.manual_seed(seed)
        results = function(function.prepare(x), z)
        torch.testing.assert_close(results, expected, rtol=1e-5, atol=1e-6)
        assert not any(result.requires_grad for result in results)


def test_draws_are_not_hoisted(module):
    function, x = _function(module)
    prepared, z = function.prepare(x), torch.zeros(5, 3, 4)
    one, two = function(prepared, z)[0], function(prepared, z)[0]
    assert (one - two).abs().min() > 0


def test_what_depends_on_fixed_arguments_is_computed_once(module):
    """Changed weights of the encoder do nothing until the function is prepared anew."""
    function, x = _function(module)
    z, before = torch.randn(5, 3, 4), copy.deepcopy(module)
    prepared = function.prepare(x)
    with torch.no_grad():
        module.encoder.weight.mul_(-1)
        module.encoder.bias.add_(1)
    for inputs, expected in ((prepared, before), (function.prepare(x), module)):
        torch.manual_seed(1)
        result = function(inputs, z)
        torch.manual_seed(1)
        torch.testing.assert_close(result, expected(z, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_weights_are_as_their_products_read_them(module, precision, dtype, monkeypatch):
    """Inputs by outputs, row by row, in the precision of the products."""
    monkeypatch.setattr(products, "bfloat16_is_slower", lambda a, b: False)
    function, x = _function(module, precision=precision)
    weight = module.decoder.weight.t().to(dtype)
    (packed,) = (t for t in function.prepare(x) if t.shape == weight.shape)
    assert packed.dtype == dtype
    assert packed.is_contiguous()
    assert torch.equal(packed, weight)
    torch.manual_seed(0)
    exact = module(torch.ones(5, 3, 4), x)[0]
    torch.manual_seed(0)
    result = function(function.prepare(x), torch.ones(5, 3, 4))[0]
    tolerance = 1e-6 if precision == "float32" else 2**-6
    assert result.dtype == torch.float32
    assert (result - exact).norm() < tolerance * exact.norm()


def test_numbers_read_from_tensors_and_arguments_changed_are_refused():
    class Changes(nn.Module):
        def forward(self, z, x):
            return z + x.clamp_(min=0)

    class Reads(nn.Module):
        def forward(self, z, x):
            return z if x.sum() > 0 else -z

    for module, message in (
        (Changes(), "changed in place"),
        (Reads(), "depends on values of tensors"),
    ):
        with pytest.raises(RuntimeError, match=message):
            HoistedFunction(module, moving=(torch.ones(2),), fixed=(torch.ones(2),))


def test_nothing_to_prepare():
    class Twice(nn.Module):
        def forward(self, z):
            return 2 * z

    function = HoistedFunction(Twice(), moving=(torch.ones(2),), fixed=())
    assert function.prepare() == []
    assert torch.equal(function([], torch.arange(2.0)), torch.tensor([0.0, 2.0]))


def test_what_takes_more_memory_than_the_arguments_is_not_kept():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(7))

        def forward(self, z):
            return z / self.scale.expand(z.shape).exp() - self.scale.log()

    module, z = Scaled(), torch.randn(100, 7)
    function = HoistedFunction(module, moving=(z,), fixed=())
    prepared = function.prepare()
    assert sum(tensor.untyped_storage().nbytes() for tensor in prepared) <= 2 * 7 * 4
    assert len(prepared) == 2  # the scale, and its logarithm
    torch.testing.assert_close(function(prepared, z), module(z))
