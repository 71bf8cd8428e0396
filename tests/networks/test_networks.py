"""One contract for every registered network in both roles, and what each kind promises."""

import copy
import inspect
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import conv2d, conv_transpose2d

from pyro_vae.common.registry import build
from pyro_vae.networks import (
    ACTIVATIONS,
    MLP,
    NETWORKS,
    ConvDecoder,
    ConvEncoder,
    GatedMLP,
    Joint,
    ResidualDecoder,
    ResidualEncoder,
)
from pyro_vae.networks.conv import Double, Halve

_IMAGES = [(8, 8), (28, 28), (33, 17), (3, 8, 9), (2, 3, 11, 8)]
_ROLES = ("encoder", "decoder")
_IMAGE_KINDS = sorted(set(NETWORKS) - {"mlp", "gated"})


def build_network(name, role, in_shape, out_shape, **options):
    table = {kind: getattr(pair, role) for kind, pair in NETWORKS.items()}
    return build("network", name, table, in_shape, out_shape, **options)


def _small(name, role, image=(2, 9, 8), **options):
    """A narrow network in float64, away from the special initial values."""
    torch.manual_seed(0)
    shapes = (image, (2, 3)) if role == "encoder" else ((5,), image)
    network = build_network(name, role, *shapes, **{"hidden": (4, 3), **options}).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def _input(network, *leading):
    return torch.randn(*leading, *network.in_shape, dtype=torch.float64)


@pytest.mark.parametrize("role", _ROLES)
@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    @pytest.mark.parametrize("image", _IMAGES)
    @pytest.mark.parametrize("leading", [(), (0,), (3,), (2, 1, 3)])
    def test_shapes(self, name, role, image, leading):
        network = _small(name, role, image)
        assert network(_input(network, *leading)).shape == (*leading, *network.out_shape)

    def test_a_row_does_not_depend_on_the_others(self, name, role):
        network = _small(name, role)
        x = _input(network, 4, 3)
        whole = network(x)
        torch.testing.assert_close(network(x[2, 1]), whole[2, 1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(network(x[1:3]), whole[1:3], rtol=1e-12, atol=1e-12)
        x[0] += 1e3
        torch.testing.assert_close(network(x)[1:], whole[1:], rtol=1e-12, atol=1e-12)

    def test_gradient_is_that_of_finite_differences(self, name, role):
        """With respect to the input and to every parameter."""
        network = _small(name, role, (2, 9, 8), hidden=(2, 3))
        names, parameters = zip(*network.named_parameters(), strict=True)

        def call(x, *parameters):
            return functional_call(network, dict(zip(names, parameters, strict=True)), (x,))

        x = _input(network, 2).requires_grad_()
        assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)

    def test_every_parameter_has_a_gradient(self, name, role):
        network = _small(name, role)
        network(_input(network, 7)).square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad.abs().sum() > 0, parameter_name

    @pytest.mark.parametrize("image", [(8, 8), (28, 28), (3, 33, 17)])
    def test_output_starts_at_order_one(self, name, role, image):
        """For standard normal input, with the network's own widths."""
        shapes = (image, (2, 16)) if role == "encoder" else ((16,), image)
        torch.manual_seed(0)
        network = build_network(name, role, *shapes)
        with torch.no_grad():
            y = network(torch.randn(50, *network.in_shape))
        assert 0.01 < y.var() < 100

    def test_scale_is_kept_through_three_layers(self, name, role):
        """The variance of the output stays within 16 times that of a single layer."""
        variances = []
        for widths in ((16,), (16, 16, 16)):
            torch.manual_seed(0)
            shapes = ((16, 16), (2, 16)) if role == "encoder" else ((16,), (16, 16))
            network = build_network(name, role, *shapes, hidden=widths)
            with torch.no_grad():
                variances.append(network(torch.randn(200, *network.in_shape)).var())
        assert 1 / 16 < variances[1] / variances[0] < 16

    def test_output_is_set(self, name, role):
        """An untrained network moves by exactly the value, and gives it where its weights do."""
        torch.manual_seed(0)
        shapes = ((2, 9, 8), (2, 3)) if role == "encoder" else ((5,), (2, 9, 8))
        network = build_network(name, role, *shapes, hidden=(4, 3)).double()
        x, value = _input(network, 6), torch.randn(network.out_shape, dtype=torch.float64)
        before = network(x)
        network.initialize_output(value)
        torch.testing.assert_close(network(x) - before, value.expand(6, *value.shape))
        for part in (value[0], value[..., :1], torch.tensor(0.3)):
            network.initialize_output(part)
            torch.testing.assert_close(network(x) - before, part.double().expand_as(before))
        with torch.no_grad():
            network.output.weight.zero_()
        assert torch.equal(network(x), part.double().expand_as(before))
        with pytest.raises(ValueError, match=r"output has shape \(2, .*\(7,\), which does not"):
            network.initialize_output(torch.zeros(7))

    def test_save_load_and_copy(self, name, role):
        one = _small(name, role)
        x = _input(one, 3)
        two = build_network(name, role, one.in_shape, one.out_shape, hidden=(4, 3)).double()
        assert not torch.equal(two(x), one(x))
        two.load_state_dict(one.state_dict())
        three = copy.deepcopy(one)
        with torch.no_grad():
            one.output.bias += 1
        assert torch.equal(three(x), two(x))
        assert not torch.equal(three(x), one(x))

    def test_functional_call_takes_the_parameters_given(self, name, role):
        one, two = _small(name, role), _small(name, role)
        with torch.no_grad():
            for parameter in two.parameters():
                parameter *= 1.5
        x = _input(one, 3)
        assert torch.equal(functional_call(one, dict(two.named_parameters()), (x,)), two(x))

    def test_dtype_is_that_of_the_parameters(self, name, role):
        network = _small(name, role).float()
        assert network(_input(network, 3).float()).dtype == torch.float32
        assert network.double()(_input(network, 3)).dtype == torch.float64

    def test_input_of_another_shape(self, name, role):
        network = _small(name, role)
        shape = ", ".join(map(str, network.in_shape))
        with pytest.raises(ValueError, match=rf"expects input of shape \(\.\.\., {shape}\); got"):
            network(torch.zeros(5, *network.in_shape[1:], 7).double())
        with pytest.raises(ValueError, match=r"got \(\)"):
            network(torch.zeros(()).double())

    def test_options_by_name(self, name, role):
        """Every option that is not the network's is refused."""
        kind = getattr(NETWORKS[name], role)
        shapes = ((8, 8), (2, 3)) if role == "encoder" else ((5,), (8, 8))
        assert type(build_network(name, role, *shapes)) is kind
        with pytest.raises(ValueError, match=r"does not take hiden.*Did you mean 'hidden'"):
            build_network(name, role, *shapes, hiden=(3,))
        with pytest.raises(ValueError, match=r"hidden widths must be at least 1; got \(4, 0\)"):
            build_network(name, role, *shapes, hidden=(4, 0))

    def test_activation_by_name(self, name, role):
        if "activation" not in inspect.signature(getattr(NETWORKS[name], role)).parameters:
            with pytest.raises(ValueError, match=r"does not take activation; it takes hidden"):
                _small(name, role, activation="tanh")
            return
        networks = [_small(name, role, activation=activation) for activation in ACTIVATIONS]
        x = _input(networks[0], 3)
        outputs = [network(x) for network in networks]
        for i, one in enumerate(outputs):
            assert all((one - other).abs().max() > 1e-3 for other in outputs[:i])
        with pytest.raises(ValueError, match=r"unknown activation 'tahn'.*Did you mean 'tanh'"):
            _small(name, role, activation="tahn")


def test_unknown_network():
    with pytest.raises(ValueError, match=r"unknown network 'con'.*Did you mean 'conv'"):
        build_network("con", "encoder", (8, 8), (2, 3))


class TestDense:
    @pytest.mark.parametrize("kind", [MLP, GatedMLP])
    def test_scalar_event_and_linear_map(self, kind):
        assert kind((), (2,), hidden=(3,))(torch.zeros(5)).shape == (5, 2)
        assert kind((2,), (), hidden=(3,))(torch.zeros(5, 2)).shape == (5,)
        assert kind((), (), hidden=(3,))(torch.zeros(())).shape == ()
        linear = kind((3,), (2,), hidden=()).double()
        assert sum(p.numel() for p in linear.parameters()) == 8
        x, y = torch.randn(2, 4, 3).double()
        torch.testing.assert_close(linear(x + y), linear(x) + linear(y))

    def test_perceptron_starts_glorot_uniform(self):
        """Within the limit, and its variance within 5 standard errors."""
        torch.manual_seed(0)
        network = MLP((100,), (300,), hidden=(200,))
        for layer, fan_in, fan_out in ((network.hidden[0], 100, 200), (network.output, 200, 300)):
            limit = math.sqrt(6 / (fan_in + fan_out))
            assert limit * 0.95 < layer.weight.abs().max() <= limit
            _has_variance(layer.weight, 2 / (fan_in + fan_out), kurtosis=1.8)
            assert not layer.bias.any()

    def test_gated_starts_he_normal(self):
        """Variance and kurtosis of a normal within 5 standard errors."""
        torch.manual_seed(0)
        network = GatedMLP((100,), (300,), hidden=(200,))
        gated = network.hidden[0]
        for layer, fan_in in ((gated.linear, 100), (gated.gate, 100), (network.output, 200)):
            _has_variance(layer.weight, 2 / fan_in, kurtosis=3)
            kurtosis = (layer.weight / layer.weight.std()).pow(4).mean().item()
            assert kurtosis == pytest.approx(3, abs=5 * math.sqrt(24 / layer.weight.numel()))
            assert not layer.bias.any()

    def test_gated_formula(self):
        network = _small("gated", "encoder", hidden=(4,))
        x = _input(network, 5)
        gated, flat = network.hidden[0], x.reshape(5, -1)
        value = flat @ gated.linear.weight.T + gated.linear.bias
        gate = 1 / (1 + torch.exp(-(flat @ gated.gate.weight.T + gated.gate.bias)))
        expected = (value * gate) @ network.output.weight.T + network.output.bias
        torch.testing.assert_close(network(x), expected.reshape(5, 2, 3))

    def test_perceptron_formula(self):
        network = _small("mlp", "encoder", hidden=(4,))
        x = _input(network, 5)
        layer = network.hidden[0]
        hidden = torch.tanh(x.reshape(5, -1) @ layer.weight.T + layer.bias)
        expected = hidden @ network.output.weight.T + network.output.bias
        torch.testing.assert_close(network(x), expected.reshape(5, 2, 3))


@pytest.mark.parametrize("name", _IMAGE_KINDS)
class TestImages:
    @pytest.mark.parametrize("shape", [(), (64,), (7, 8), (3, 8, 7), (28, 2)])
    def test_no_image(self, name, shape):
        for role, shapes in zip(_ROLES, ((shape, (2, 3)), ((5,), shape)), strict=True):
            with pytest.raises(ValueError, match=r"need images.*at least 8x8; got .*Use .*'mlp'"):
                build_network(name, role, *shapes)

    @pytest.mark.parametrize("image", [(8, 8), (17, 33), (22, 13), (4, 31, 64)])
    def test_as_many_stages_as_halvings(self, name, image):
        most = int(math.log2(min(image[-2:])))
        for role, shapes in zip(_ROLES, ((image, (2, 3)), ((5,), image)), strict=True):
            network = build_network(name, role, *shapes, hidden=(3,) * most)
            assert network(torch.zeros(2, *shapes[0])).shape == (2, *shapes[1])
            for hidden in ((), (3,) * (most + 1)):
                with pytest.raises(ValueError, match=rf"can be halved 1 to {most} times"):
                    build_network(name, role, *shapes, hidden=hidden)

    def test_every_pixel_counts(self, name):
        """Each pixel moves the encoder's output, each latent moves each pixel of the decoder's."""
        for image in ((8, 8), (2, 33, 17)):
            encoder = _small(name, "encoder", image)
            x = _input(encoder).requires_grad_()
            assert (torch.autograd.grad(encoder(x).square().sum(), x)[0] != 0).all()
            decoder = _small(name, "decoder", image)
            z = _input(decoder)
            assert (torch.autograd.functional.jacobian(decoder, z) != 0).all()

    def test_channels_are_the_leading_dimensions(self, name):
        flat, split = _small(name, "encoder", (6, 9, 8)), _small(name, "encoder", (2, 3, 9, 8))
        x = _input(flat, 5)
        assert torch.equal(flat(x), split(x.reshape(5, 2, 3, 9, 8)))
        flat, split = _small(name, "decoder", (6, 9, 8)), _small(name, "decoder", (2, 3, 9, 8))
        z = _input(flat, 5)
        assert torch.equal(flat(z), split(z).reshape(5, 6, 9, 8))

    def test_hidden_widths_go_from_the_input_on(self, name):
        encoder = build_network(name, "encoder", (16, 16), (2, 3), hidden=(5, 7))
        assert encoder.output.in_features == 7 * 4 * 4
        decoder = build_network(name, "decoder", (4,), (3, 16, 16), hidden=(7, 5))
        assert decoder.hidden[0].out_features == 7 * 4 * 4
        assert decoder.output.weight.shape[:2] == (5, 3)

    def test_same_network_in_training_and_evaluation(self, name):
        for role in _ROLES:
            network = _small(name, role)
            x = _input(network, 3)
            assert torch.equal(network.train()(x), network.eval()(x))
            assert not list(network.buffers())


class TestConvolutions:
    @pytest.mark.parametrize("size", [(8, 8), (9, 8), (17, 33)])
    def test_doubling_is_the_adjoint_of_halving(self, size):
        """<y, halve(x)> = <double(y), x> with the same weights, at odd sizes too."""
        halve, double = Halve(2, 3).double(), Double(3, 2, size).double()
        with torch.no_grad():
            double.weight.copy_(halve.weight)
        x = torch.randn(1, 2, *size, dtype=torch.float64)
        y = torch.randn(1, 3, size[0] // 2, size[1] // 2, dtype=torch.float64)
        torch.testing.assert_close((y * halve(x)).sum(), (double(y) * x).sum())

    @pytest.mark.parametrize("gain", [1.0, 2.0])
    def test_stages_keep_the_variance(self, gain):
        """Of white input, away from the border: gain, within 5 standard errors of the weights.

        The variance of one output channel is that of its fan_in weights about zero, with relative
        standard error sqrt(2 / fan_in); 64 channels average it.
        """
        torch.manual_seed(0)
        x = torch.randn(20, 64, 32, 32)
        with torch.no_grad():
            half = Halve(64, 64, gain=gain)(x)[..., 2:-2, 2:-2]
            twice = Double(64, 64, (64, 64), gain=gain)(x)[..., 2:-2, 2:-2]
        assert half.var().item() == pytest.approx(
            gain, rel=5 * math.sqrt(2 / (64 * 64 * 16)) + 0.01
        )
        assert twice.var().item() == pytest.approx(
            gain, rel=5 * math.sqrt(2 / (64 * 64 * 4)) + 0.01
        )

    @pytest.mark.parametrize(
        ("kind", "in_shape", "out_shape", "gain"),
        [
            (ConvEncoder, (3, 16, 16), (2, 50), 2),
            (ConvDecoder, (50,), (3, 16, 16), 2),
            (ResidualEncoder, (3, 16, 16), (2, 50), 1),
            (ResidualDecoder, (50,), (3, 16, 16), 1),
        ],
    )
    def test_start_he_normal(self, kind, in_shape, out_shape, gain):
        """Gain 2 behind a nonlinearity, 1 behind linear stages: variance within 5 errors."""
        torch.manual_seed(0)
        network = kind(in_shape, out_shape)
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear):
                fan_in = layer.in_features
            elif isinstance(layer, nn.ConvTranspose2d):
                fan_in = 4 * layer.in_channels
            elif isinstance(layer, nn.Conv2d):
                fan_in = layer.in_channels * math.prod(layer.kernel_size)
            else:
                continue
            assert not layer.bias.any()
            if name.endswith("branch.3"):
                assert not layer.weight.any()
            else:
                expected = 2 if name == "output" or "branch" in name else gain
                _has_variance(layer.weight, expected / fan_in, kurtosis=3)

    def test_encoder_formula(self):
        network = _small("conv", "encoder", (9, 8), hidden=(3,), activation="tanh")
        x = _input(network, 5)
        layer = network.hidden[0]
        hidden = conv2d(x.unsqueeze(1), layer.weight, layer.bias, stride=2, padding=1).tanh()
        assert hidden.shape == (5, 3, 4, 4)
        expected = hidden.reshape(5, -1) @ network.output.weight.T + network.output.bias
        torch.testing.assert_close(network(x), expected.reshape(5, 2, 3))

    def test_decoder_formula(self):
        network = _small("conv", "decoder", (9, 8), hidden=(3,), activation="tanh")
        z = _input(network, 4)
        hidden = (z @ network.hidden[0].weight.T + network.hidden[0].bias).tanh()
        image = conv_transpose2d(
            hidden.reshape(4, 3, 4, 4),
            network.output.weight,
            stride=2,
            padding=1,
            output_padding=(1, 0),
        )
        torch.testing.assert_close(network(z), (image + network.output.bias).squeeze(1))

    @pytest.mark.parametrize("blocks", [1, 3])
    def test_residual_network_starts_without_its_blocks(self, blocks):
        """At first an encoder is its halvings, one nonlinearity and its linear map."""
        network = ResidualEncoder((16, 16), (4,), hidden=(3, 5), blocks=blocks).double()
        x = _input(network, 2)
        first, second = (layer for layer in network.hidden if isinstance(layer, Halve))
        hidden = nn.functional.gelu(second(first(x.unsqueeze(1))))
        torch.testing.assert_close(network(x), network.output(hidden.flatten(1)))
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == 2 + 2 * 2 * blocks

    def test_residual_block_formula(self):
        network = _small("residual", "decoder", activation="silu")
        block = network.hidden[2]
        x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
        first, last = block.branch[1], block.branch[3]
        hidden = conv2d(x * x.sigmoid(), first.weight, first.bias, padding=1)
        hidden = conv2d(hidden * hidden.sigmoid(), last.weight, last.bias, padding=1)
        torch.testing.assert_close(block(x), x + hidden)

    def test_number_of_blocks(self):
        for role, shapes in zip(_ROLES, (((8, 8), (2,)), ((2,), (8, 8))), strict=True):
            with pytest.raises(ValueError, match="needs at least 1 block; got 0"):
                build_network("residual", role, *shapes, blocks=0)


class TestJoint:
    def test_inputs_side_by_side(self):
        """Leading dimensions broadcast: the same as the concatenation by hand."""
        network = MLP((2 * 3 + 4 + 1,), (2, 5), hidden=(7,)).double()
        joint = Joint(network, (2, 3), (4,), ())
        x, z, label = (torch.randn(*shape).double() for shape in ((6, 2, 3), (8, 6, 4), (8, 1)))
        y = joint(x, z, label)
        assert y.shape == (8, 6, 2, 5)
        for k, n in ((0, 0), (7, 5), (3, 2)):
            row = torch.cat([x[n].flatten(), z[k, n], label[k]])
            torch.testing.assert_close(y[k, n], network(row))
        assert joint(x[0], z[0, 0], label[0, 0]).shape == (2, 5)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_decoder_of_two_inputs(self, name):
        network = build_network(name, "decoder", (5,), (9, 8), hidden=(3,)).double()
        joint = Joint(network, (3,), (2,))
        z, label = torch.randn(4, 6, 3).double(), torch.randn(6, 2).double()
        before = joint(z, label)
        assert before.shape == (4, 6, 9, 8)
        joint.initialize_output(torch.full((9, 8), 0.7).double())
        torch.testing.assert_close(joint(z, label), before + 0.7)

    def test_image_and_planes(self):
        """A value becomes a constant plane, an image of the same size its own channels."""
        network = ConvEncoder((3 + 3 + 1, 9, 8), (2,), hidden=(3,)).double()
        joint = Joint(network, (3, 9, 8), (3,), (9, 8))
        shapes = ((5, 3, 9, 8), (4, 5, 3), (5, 9, 8))
        x, label, half = (torch.randn(*shape).double() for shape in shapes)
        y = joint(x, label, half)
        assert y.shape == (4, 5, 2)
        planes = label[2, 1].reshape(3, 1, 1).expand(3, 9, 8)
        image = torch.cat([x[1], planes, half[1][None]])
        torch.testing.assert_close(y[2, 1], network(image))
        with pytest.raises(ValueError, match=r"needs in_shape \(219,\), or \(6, 9, 8\) if"):
            Joint(ConvEncoder((5, 9, 8), (2,), hidden=(3,)), (3, 9, 8), (3,))

    def test_gradient_reaches_every_input(self):
        joint = Joint(MLP((5,), (2,), hidden=(4,)).double(), (3,), (2,))
        inputs = [torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (3, 2)]
        assert torch.autograd.gradcheck(joint, inputs)

    def test_network_that_cannot_be_initialized(self):
        joint = Joint(nn.Linear(5, 2), (3,), (2,))
        joint.initialize_output(torch.zeros(2))
        assert joint(torch.zeros(4, 3), torch.zeros(4, 2)).shape == (4, 2)

    def test_wrong_inputs(self):
        joint = Joint(MLP((5,), (2,), hidden=()), (3,), (2,))
        with pytest.raises(ValueError, match=r"2 inputs of event shapes \(3,\), \(2,\); got 1 of"):
            joint(torch.zeros(4, 3))
        with pytest.raises(ValueError, match=r"got shapes \[\(4, 2\), \(4, 3\)\]"):
            joint(torch.zeros(4, 2), torch.zeros(4, 3))
        with pytest.raises(ValueError, match=r"got shapes \[\(\), \(4, 2\)\]"):
            joint(torch.zeros(()), torch.zeros(4, 2))
        with pytest.raises(ValueError, match="leading dimensions do not broadcast"):
            joint(torch.zeros(4, 3), torch.zeros(5, 2))
        with pytest.raises(ValueError, match=r"needs in_shape \(5,\); got \(6,\)"):
            Joint(MLP((6,), (2,)), (3,), (2,))
        with pytest.raises(ValueError, match="event shape of each input; got none"):
            Joint(MLP((6,), (2,)))


@pytest.mark.parametrize("name", NETWORKS)
def test_runs_without_values(name):
    """On the meta device nothing can be read on the host, so that programs can be traced whole."""
    network = Joint(_small(name, "decoder"), (3,), (2,)).to("meta")
    z, label = torch.empty(2, 4, 3, device="meta").double(), torch.empty(4, 2, device="meta")
    assert network(z, label.double()).shape == (2, 4, 2, 9, 8)
    encoder = _small(name, "encoder").to("meta")
    assert encoder(torch.empty(4, 2, 9, 8, device="meta").double()).shape == (4, 2, 3)


def _has_variance(weight, variance, *, kurtosis):
    """Mean zero and the variance given, each within 5 standard errors."""
    n = weight.numel()
    assert weight.mean().item() == pytest.approx(0, abs=5 * math.sqrt(variance / n))
    second = weight.square().mean().item()
    assert second == pytest.approx(variance, rel=5 * math.sqrt((kurtosis - 1) / n))
