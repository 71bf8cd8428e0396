"""The contenders of ``speed.py``: one network, written for each library as its users write it.

A task of a contender runs in a process of its own, ``speed_peers.py NAME TASK OPTIONS DEVICE``, so
that no library's thread pool, global flags, parameter store or compiled code is near another's. It
makes the first call, which compiles, and says what that took; then for every number that it reads,
a line each, it measures so many units of work. Answers are lines of JSON.
"""

import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

EVENT, HIDDEN, LATENT = 784, 400, 50
LEARNING_RATE = 1e-3
BLOCK = 64  # data that are evaluated in turn


def weights() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Weights ``(inputs, outputs)`` and biases that every contender starts from.

    The head of log σ gives exactly 0, so that parametrizations of σ agree at the start.
    """
    generator = np.random.default_rng(0)

    def layer(inputs: int, outputs: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        bound = scale / inputs**0.5
        shapes = ((inputs, outputs), (outputs,))
        weight, bias = (generator.uniform(-bound, bound, shape) for shape in shapes)
        return weight.astype(np.float32), bias.astype(np.float32)

    return {
        "encoder": [layer(EVENT, HIDDEN), layer(HIDDEN, LATENT), layer(HIDDEN, LATENT, 0.0)],
        "decoder": [layer(LATENT, HIDDEN), layer(HIDDEN, EVENT)],
    }


def data(number: int) -> np.ndarray:
    """Random binary data, ``(number, 784)``."""
    return (np.random.default_rng(1).random((number, EVENT)) < 0.5).astype(np.float32)


class Task:
    """Work that is measured in turns: an action, repeated.

    Args:
        action: does the work; returns a scalar.
        units: units of work in one action.
        scale: times the scalar: ELBO per datum or mean log p(x), in nats.
    """

    def __init__(self, action: Callable[[], Any], *, units: int = 1, scale: float = 1.0) -> None:
        self.action, self.units, self.scale = action, units, scale

    def first(self) -> tuple[float, float]:
        """Make the first call; return its seconds, and its value."""
        return self._seconds(1)

    def turn(self, count: int) -> tuple[float, float]:
        """Return seconds a unit, over about ``count`` units, and the last value."""
        repeats = max(1, round(count / self.units))
        # Not measured: the threads of the contender before spin for some milliseconds.
        self._seconds(max(1, repeats // 8))
        seconds, value = self._seconds(repeats)
        return seconds / (repeats * self.units), value

    def _seconds(self, repeats: int) -> tuple[float, float]:
        started = time.perf_counter()
        for _ in range(repeats):
            value = self.action()
        number = float(value)  # waits for what still runs: JAX and CUDA return early
        return time.perf_counter() - started, number * self.scale


class Torch:
    """What the contenders on PyTorch share: the networks, and the data on the device."""

    packages = ("torch",)

    def __init__(self, device: str) -> None:
        import torch
        from torch import nn

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = nn.Linear(EVENT, HIDDEN)
                self.mean, self.log_scale = (nn.Linear(HIDDEN, LATENT) for _ in range(2))

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                hidden = nn.functional.softplus(self.hidden(x))
                return self.mean(hidden), self.log_scale(hidden)

        torch.manual_seed(0)
        self.torch, self.device = torch, torch.device(device)
        self.encoder = Encoder()
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, EVENT)
        )
        for module, layers in zip((self.encoder, self.decoder), weights().values(), strict=True):
            self.load(module, layers)
            module.to(self.device)

    def load(self, module, layers) -> None:
        """Fill the linear layers of a module, in their order."""
        linear = [part for part in module.modules() if isinstance(part, self.torch.nn.Linear)]
        with self.torch.no_grad():
            for part, (weight, bias) in zip(linear, layers, strict=True):
                part.weight.copy_(self.torch.from_numpy(weight.T))
                part.bias.copy_(self.torch.from_numpy(bias))

    def data(self, number: int):
        """The data as a tensor."""
        return self.torch.from_numpy(data(number)).to(self.device)

    def threads(self) -> int:
        """Threads of one operation."""
        return self.torch.get_num_threads()


class PyroTutorial(Torch):
    """Pyro's tutorial on VAEs, with logits: https://pyro.ai/examples/vae.html."""

    packages = ("torch", "pyro-ppl")

    def step(self, batch: int) -> Task:
        """``SVI.step`` on one batch."""
        import pyro
        import pyro.distributions as dist
        from pyro.infer import SVI, Trace_ELBO
        from pyro.optim import Adam

        def model(x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z_loc = x.new_zeros((x.shape[0], LATENT))
                z_scale = x.new_ones((x.shape[0], LATENT))
                z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
                pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                z_loc, z_log_scale = self.encoder(x)
                pyro.sample("latent", dist.Normal(z_loc, z_log_scale.exp()).to_event(1))

        pyro.clear_param_store()
        svi = SVI(model, guide, Adam({"lr": LEARNING_RATE}), Trace_ELBO())
        x = self.data(batch)
        return Task(lambda: svi.step(x), scale=-1 / batch)


class Eager(Torch):
    """A VAE in plain PyTorch."""

    def step(self, batch: int) -> Task:
        """Forward, backward, fused Adam."""
        optimizer = self.torch.optim.Adam(
            [*self.encoder.parameters(), *self.decoder.parameters()], lr=LEARNING_RATE, fused=True
        )
        x, negative_elbo = self.data(batch), self._compiled(self._negative_elbo)

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = negative_elbo(x)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return Task(step, scale=-1)

    def evidence(self, samples: int) -> Task:
        """One datum after the other, all its samples in one batch."""
        torch, functional = self.torch, self.torch.nn.functional
        rows, normal = itertools.cycle(self.data(BLOCK)), torch.distributions.Normal

        @torch.no_grad()
        def log_px():
            x = next(rows)
            mean, log_scale = self.encoder(x)
            q = normal(mean, log_scale.exp())
            z = q.sample((samples,))
            logits = self.decoder(z)
            log_px_z = -functional.binary_cross_entropy_with_logits(
                logits, x.expand_as(logits), reduction="none"
            ).sum(-1)
            log_pz = normal(0.0, 1.0).log_prob(z).sum(-1)
            log_w = log_px_z + log_pz - q.log_prob(z).sum(-1)
            return log_w.logsumexp(0) - np.log(samples)

        return Task(log_px)

    def _negative_elbo(self, x):
        functional = self.torch.nn.functional
        mean, log_scale = self.encoder(x)
        noise = self.torch.randn_like(mean)
        z = mean + log_scale.exp() * noise
        logits = self.decoder(z)
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = (0.5 * (z.square() - noise.square()) - log_scale).sum()  # sampled, as Trace_ELBO's
        return (reconstruction + kl) / len(x)

    def _compiled(self, loss):
        return loss


class Compiled(Eager):
    """The same, with ``torch.compile`` of the loss."""

    def _compiled(self, loss):
        return self.torch.compile(loss)


class NumPyro:
    """NumPyro with networks of stax, as in its example on VAEs."""

    packages = ("numpyro", "jax")

    def __init__(self, device: str) -> None:
        import jax
        import numpyro
        from jax.example_libraries import stax

        wanted = "gpu" if device.startswith("cuda") else "cpu"
        if jax.default_backend() != wanted:
            raise ImportError(f"this jax runs on {jax.default_backend()}, not on {wanted}")
        _, self.encode = stax.serial(
            stax.Dense(HIDDEN),
            stax.Softplus,
            stax.FanOut(2),
            stax.parallel(stax.Dense(LATENT), stax.serial(stax.Dense(LATENT), stax.Exp)),
        )
        _, self.decode = stax.serial(stax.Dense(HIDDEN), stax.Softplus, stax.Dense(EVENT))
        layers = jax.tree.map(jax.numpy.asarray, weights())
        first, mean, log_scale = layers["encoder"]
        self.encoder = [first, (), (), [mean, [log_scale, ()]]]
        self.decoder = [layers["decoder"][0], (), layers["decoder"][1]]
        self.jax, self.numpyro = jax, numpyro

    def step(self, batch: int) -> Task:
        """``SVI.update`` under ``jax.jit``, its state donated."""
        import numpyro.distributions as dist
        from numpyro.infer import SVI, Trace_ELBO

        numpyro = self.numpyro
        decoder = (lambda key, shape: (shape, self.decoder), self.decode)
        encoder = (lambda key, shape: (shape, self.encoder), self.encode)

        def model(x):
            decode = numpyro.module("decoder", decoder, (batch, LATENT))
            with numpyro.plate("data", batch):
                z = numpyro.sample("z", dist.Normal(0, 1).expand([LATENT]).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

        def guide(x):
            encode = numpyro.module("encoder", encoder, (batch, EVENT))
            mean, scale = encode(x)
            with numpyro.plate("data", batch):
                numpyro.sample("z", dist.Normal(mean, scale).to_event(1))

        svi = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())
        x = self.jax.numpy.asarray(data(batch))
        state = svi.init(self.jax.random.PRNGKey(0), x)
        update = self.jax.jit(svi.update, donate_argnums=0)

        def step():
            nonlocal state
            state, loss = update(state, x)
            return loss

        return Task(step, scale=-1 / batch)

    def evidence(self, samples: int) -> Task:
        """Sixteen data a call, a thousand samples at a time: among the fastest of five layouts."""
        from numpyro.distributions import Normal

        jax, softplus = self.jax, self.jax.nn.softplus
        chunk = next(size for size in range(min(1000, samples), 0, -1) if samples % size == 0)

        def log_px(argument):
            x, key = argument
            mean, scale = self.encode(self.encoder, x)

            def log_weights(key):
                z = mean + scale * jax.random.normal(key, (chunk, LATENT))
                logits = self.decode(self.decoder, z)
                log_px_z = (x * logits - softplus(logits)).sum(-1)
                log_ratio = Normal(0, 1).log_prob(z) - Normal(mean, scale).log_prob(z)
                return log_px_z + log_ratio.sum(-1)

            log_w = jax.lax.map(log_weights, jax.random.split(key, samples // chunk))
            return jax.nn.logsumexp(log_w) - np.log(samples)

        number, seeds = 16, itertools.count()
        x = jax.numpy.asarray(data(number))
        every = jax.jit(
            lambda x, key: jax.lax.map(log_px, (x, jax.random.split(key, number))).mean()
        )
        return Task(lambda: every(x, jax.random.PRNGKey(next(seeds))), units=number)

    def threads(self) -> int:
        """Processors that XLA's pool may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Pythae(Torch):
    """Pythae's VAE with the same networks."""

    packages = ("torch", "pythae")

    def evidence(self, samples: int) -> Task:
        """``VAE.get_nll``, a datum a call."""
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder

        networks = self

        class Encoder(BaseEncoder):
            def __init__(self) -> None:
                super().__init__()
                self.network = networks.encoder

            def forward(self, x):
                mean, log_scale = self.network(x)
                return ModelOutput(embedding=mean, log_covariance=2 * log_scale)

        class Decoder(BaseDecoder):
            def __init__(self) -> None:
                super().__init__()
                self.network = networks.decoder

            def forward(self, z):
                return ModelOutput(reconstruction=self.network(z).sigmoid())

        config = VAEConfig(input_dim=(EVENT,), latent_dim=LATENT, reconstruction_loss="bce")
        vae = VAE(config, encoder=Encoder(), decoder=Decoder()).to(self.device).eval()
        rows = itertools.cycle(self.data(BLOCK))

        def log_px():
            with self.torch.no_grad():
                return vae.get_nll(next(rows)[None], n_samples=samples, batch_size=100)

        return Task(log_px)


class PyroVAE(Torch):
    """This package."""

    packages = ("torch", "pyro-ppl", "pyro-vae")
    precision = "float32"

    def __init__(self, device: str) -> None:
        super().__init__(device)
        import pyro_vae as pv

        warnings.simplefilter("error", pv.PyroVAEWarning)  # such as that nothing was compiled
        config = pv.Config(latent_dim=LATENT, hidden=(HIDDEN,), activation="softplus")
        self.pv = pv
        self.vae = pv.VAE.from_config(config, event_shape=(EVENT,)).to(self.device)
        (first, mean, scale), decoder = weights().values()
        heads = [np.concatenate(pair, -1) for pair in zip(mean, scale, strict=True)]
        heads[1][LATENT:] = np.log(np.expm1(1))  # its softplus is 1
        self.load(self.vae.posterior, [first, tuple(heads)])
        self.load(self.vae.likelihood, decoder)

    def step(self, batch: int) -> Task:
        """The compiled step."""
        optimizer = self.torch.optim.Adam(self.vae.parameters(), lr=LEARNING_RATE, fused=True)
        step = self.pv.CompiledStep(
            self.vae, self.pv.ELBO(), optimizer, rows=batch, precision=self.precision
        )
        x = self.data(batch)
        return Task(lambda: step(x), scale=1 / batch)

    def part(self, name: str, batch: int, compiled: bool) -> Task:
        """A step of a model with another part, compiled or by Pyro's handlers."""
        from pyro_vae.objectives import objective_of

        shape = (28, 28) if "network" in PARTS[name] else (EVENT,)
        start, x = (self.data(n).reshape(-1, *shape) for n in (600, batch))
        given = {"latent_dim": LATENT, "hidden": (HIDDEN,), "activation": "softplus", **PARTS[name]}
        config = self.pv.Config(**given)
        self.torch.manual_seed(0)
        program = self.pv.build_program(config, event_shape=shape, data=start).to(self.device)
        optimizer = self.torch.optim.Adam(program.parameters(), lr=LEARNING_RATE, fused=True)
        step = self.pv.CompiledStep(program, objective_of(config), optimizer, rows=batch)
        if not compiled:
            step.gradients = self.pv.compiled.Gradients(program, objective_of(config))
        return Task(lambda: step(x), scale=1 / batch)

    def evidence(self, samples: int) -> Task:
        """``log_evidence``, compiled."""
        return Evidence(self, samples)

    def epoch(self, rows: int, batch: int) -> Task:
        """Epochs of ``fit``, compiled: seconds a batch."""
        return Epochs(self, rows, batch)


PARTS: dict[str, dict[str, Any]] = {
    "VampPrior, 500 pseudo-inputs": {"prior": "vamp", "prior_components": 500},
    "mixture of 500 as prior": {"prior": "mixture", "prior_components": 500},
    "flow prior": {"prior": "flow"},
    "normal posterior, full covariance": {"posterior": "full"},
    "flow posterior": {"posterior": "flow"},
    "IWAE, k = 5": {"objective": "iwae", "particles": 5},
    "convolutional networks": {"network": "conv", "hidden": (32, 64), "activation": "relu"},
    "two layers, top-down": {"program": "top-down"},
    "normal likelihood": {"likelihood": "normal"},
}


class PyroVAEHalf(PyroVAE):
    """This package with products in bfloat16."""

    precision = "bfloat16"


class Evidence(Task):
    """``log_evidence`` of this package, which compiles in every call, and then measures a bias.

    What data take is the difference between a call with more and one with few of them.
    """

    def __init__(self, contender: PyroVAE, samples: int) -> None:
        self.contender, self.samples = contender, samples
        self.x = contender.data(BLOCK)
        # Untrained, the guide is a poor proposal, and k̂ says so.
        warnings.simplefilter("ignore", contender.pv.UnreliableEvidence)

    def first(self) -> tuple[float, float]:
        """Make the first call; return its seconds, and mean log p(x)."""
        return self._call(1)

    def turn(self, count: int) -> tuple[float, float]:
        """Return seconds a datum and the mean of log p(x)."""
        blocks = max(1, round(count / BLOCK))
        few, _ = self._call(1)
        more, value = self._call(1 + blocks)
        return (more - few) / (blocks * BLOCK), value

    def _call(self, blocks: int) -> tuple[float, float]:
        vae, x = self.contender.vae, self.x.repeat(blocks, 1)
        started = time.perf_counter()
        evidence = self.contender.pv.log_evidence(
            vae.model,
            vae.guide,
            x,
            samples=self.samples,
            compiled=True,
            precision=self.contender.precision,
            progress=False,
        )
        return time.perf_counter() - started, evidence.mean().value


class Epochs(Task):
    """``fit`` of this package over some epochs, of which the first, that compiles, is left out."""

    def __init__(self, contender: PyroVAE, rows: int, batch: int) -> None:
        self.contender, self.batch = contender, batch
        self.x = contender.data(rows)

    def first(self) -> tuple[float, float]:
        """Return seconds and ELBO of the first epoch."""
        (epoch,) = self._history(1)
        return epoch.seconds, epoch.train_elbo

    def turn(self, count: int) -> tuple[float, float]:
        """Return seconds for as many data as a batch has, and the training ELBO."""
        epochs = max(1, round(count * self.batch / len(self.x)))
        history = self._history(1 + epochs)
        seconds = (history[-1].seconds - history[0].seconds) / epochs
        return seconds * self.batch / len(self.x), history[-1].train_elbo

    def _history(self, epochs: int):
        pv, vae = self.contender.pv, self.contender.vae
        history = pv.fit(
            vae,
            self.x,
            epochs=epochs,
            batch_size=self.batch,
            learning_rate=LEARNING_RATE,
            compiled=True,
            device=self.contender.device,
            progress=False,
        )
        return history.epochs


class Product(Torch):
    """The limit: the fastest float32 product of the decoder's size that torch has."""

    def product(self) -> Task:
        """(2048, 400) x (400, 784), by torch's default library or, where it is faster, oneDNN.

        A copy of a number is returned, so that no product is in memory while the next one is made.
        """
        torch = self.torch
        a, b = (torch.randn(shape, device=self.device) for shape in ((2048, 400), (400, 784)))
        tasks = [Task(lambda: torch.mm(a, b)[0, 0].clone())]
        if self.device.type == "cpu" and torch.backends.mkldnn.is_available():
            linear = torch.ops.mkldnn._linear_pointwise
            tasks.append(Task(lambda: linear(a, b.t(), None, "none", [], "")[0, 0].clone()))
        return Fastest(tasks)


class Fastest(Task):
    """The fastest of several ways to the same result."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks

    def first(self) -> tuple[float, float]:
        """Make the first calls, and return what the last one did."""
        return [task.first() for task in self.tasks][-1]

    def turn(self, count: int) -> tuple[float, float]:
        """Return seconds and value of the fastest."""
        return min(task.turn(count) for task in self.tasks)


CONTENDERS = {
    "Pyro, as in its tutorial": PyroTutorial,
    "PyTorch, eager": Eager,
    "PyTorch, torch.compile": Compiled,
    "NumPyro, jitted": NumPyro,
    "Pythae": Pythae,
    "pyro_vae, fp32": PyroVAE,
    "pyro_vae, bf16": PyroVAEHalf,
    "matrix product": Product,
}


def serve(name: str, task: str, options: str, device: str) -> None:
    """Make one task of one contender, and measure it as often as asked."""
    # Whatever libraries print goes to stderr; stdout is for answers.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(**content: Any) -> None:
        print(json.dumps(content), file=replies, flush=True)

    try:
        contender = CONTENDERS[name](device)
        work: Task = getattr(contender, task)(**json.loads(options))
    except ImportError as error:
        return reply(missing=str(error))
    seconds, value = work.first()
    versions = {package: version(package) for package in contender.packages}
    reply(seconds=seconds, value=value, threads=contender.threads(), versions=versions)
    for line in sys.stdin:
        seconds, value = work.turn(int(line))
        reply(seconds=seconds, value=value)
    return None


if __name__ == "__main__":
    serve(*sys.argv[1:])
