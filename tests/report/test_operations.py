"""Networks become operations, or are refused in a sentence."""

import base64

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae.networks import NETWORKS
from pyro_vae.report import UnknownPart, operations
from pyro_vae.report.packing import Pack, packed_data


def _kinds(listed):
    kinds = [operation["kind"] for operation in listed]
    return kinds + [kind for one in listed for kind in _kinds(one.get("branch", []))]


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("mlp", {"linear", "activation"}),
        ("gated", {"linear", "gate"}),
        ("conv", {"linear", "activation", "convolution"}),
        ("residual", {"linear", "activation", "convolution", "residual"}),
    ],
)
def test_every_weight_of_a_network_is_in_its_operations(name, inside):
    for role, kind in zip(("encoder", "decoder"), NETWORKS[name], strict=True):
        shapes = ((8, 8), (2, 3)) if role == "encoder" else ((3,), (8, 8))
        network = kind(*shapes, hidden=(4, 5))
        pack = Pack()
        kinds = set(_kinds(operations(network, shapes[0], pack)))
        expected = inside
        if role == "decoder" and "convolution" in inside:
            expected = inside - {"convolution"} | {"transposed"}
            expected |= {"convolution"} if name == "residual" else set()
        assert kinds == expected
        packed = np.frombuffer(base64.b64decode(pack.content()["base64"]), "<f4")
        weights = torch.cat([parameter.flatten() for parameter in network.parameters()])
        assert sorted(packed.tolist()) == sorted(weights.tolist())


class _Own(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _hooked():
    linear = nn.Linear(3, 3)
    linear.register_forward_hook(lambda module, given, output: 2 * output)
    return linear


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (_Own(3, 3), "does not know the module _Own"),
        (_hooked(), "Linear with hooks"),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), "does not know the module LayerNorm"),
        (nn.GELU(approximate="tanh"), "GELU with approximate='tanh'"),
        (nn.Softplus(beta=2), "Softplus with beta=2"),
        (nn.Conv2d(2, 2, 3, groups=2), "Conv2d with groups=2"),
        (nn.Conv2d(2, 2, 3, padding="same"), "whose padding is a word"),
        (nn.ConvTranspose2d(2, 2, 3, dilation=2), r"ConvTranspose2d with dilation=\(2, 2\)"),
    ],
)
def test_unknown_modules_are_refused(module, words):
    with pytest.raises(UnknownPart, match=words):
        operations(module, (2, 8, 8) if "onv" in words or "padding" in words else (3,), Pack())


def test_a_subclass_that_computes_the_same_is_known():
    kind = type("Mine", (nn.Linear,), {})
    assert _kinds(operations(kind(3, 2), (3,), Pack())) == ["linear"]


@pytest.mark.parametrize(
    ("x", "kind", "size"),
    [
        (torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), "bits", 1),
        (torch.arange(256.0), "bytes", 256),
        (torch.arange(256.0) / 255, "bytes", 256),
        (torch.tensor([0.5, -1e9, 3.14159]), "float32", 12),
    ],
)
def test_data_are_packed_exactly(x, kind, size):
    packed = packed_data(x)
    raw = base64.b64decode(packed["base64"])
    assert packed["kind"] == kind
    assert len(raw) == size
    if kind == "bits":
        unpacked = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: x.numel()]
    elif kind == "bytes":
        unpacked = np.frombuffer(raw, np.uint8).astype(np.float32) / np.float32(packed["over"])
    else:
        unpacked = np.frombuffer(raw, "<f4")
    assert (unpacked == x.flatten().numpy()).all()


def test_weights_beyond_float16_are_refused():
    with pytest.raises(ValueError, match=r"weights of 1e\+06 do not fit into float16.*float32"):
        Pack("float16").add(torch.tensor([1e6]))
