"""Sequences of Pyro's examples: Markov models with enumerated states, and the deep Markov model."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

import pyro.contrib.examples.polyphonic_data_loader as poly
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor

import pyro_vae as pv

from .base import ARGUMENT, Brought, Source, case, train
from .references import by_enumeration, by_traces, exactly
from .tutorials import DELTA, ENUMERATED, GLOBAL

__all__: list[str] = []

_LENGTHS = torch.tensor([3, 2, 3])


def _notes() -> Tensor:
    return (torch.rand(3, 3, 2) < 0.4).float()


def _sees_probabilities(site: Any) -> bool:
    return site["name"].startswith("probs_")


def _markov(source: Source, name: str, guide: Any) -> Brought:
    """The example's call: sequences, lengths and its settings, with its guide or a normal one."""
    model = source.module().models[name]
    states = 4 if name in ("3", "4") else 2
    args = Namespace(
        hidden_dim=states, nn_dim=4, nn_channels=1, jit=False, raftery_parameterization=False
    )
    data = (_notes(), _LENGTHS, args)
    plates = 1 if name in ("0", "7") else 2
    objective = TraceEnum_ELBO(max_plate_nesting=plates, strict_enumeration_warning=name != "7")
    if name == "6":  # nothing but parameters and states

        def empty(*arguments: Any) -> None:
            pass

        train(model, empty, data, steps=30, objective=objective)
        rows = [(data[0][n : n + 1], _LENGTHS[n : n + 1], args) for n in range(3)]
        reference: Any = by_enumeration(model, empty, rows, samples=1, plates=plates)
        ours = pv.EnumeratedELBO(plates=plates)
        return Brought(model, empty, data, reference, objective, ours)
    shown = poutine.block(model, expose_fn=_sees_probabilities)
    guide = guide(shown)
    train(model, guide, data, steps=120, objective=objective)
    reference = None
    if isinstance(guide, AutoNormal) and name in "01234":
        reference = exactly(_over_paths(data[0], _LENGTHS, name))
    elif isinstance(guide, AutoNormal):  # the prior is the better proposal of so few data
        reference = by_enumeration(model, shown, [data], samples=300, plates=plates)
    return Brought(model, guide, data, reference, objective, pv.EnumeratedELBO(plates=plates))


def _over_paths(notes: Tensor, lengths: Tensor, name: str) -> Tensor:
    """Log p(D) of two states: the sum over all their paths, with the probabilities integrated out.

    Given a path, transitions are Dirichlet-multinomial and notes Beta-Bernoulli.
    """
    places = [(n, t) for n, length in enumerate(lengths.tolist()) for t in range(length)]
    both = name in "34"
    codes = torch.cartesian_prod(*[torch.arange(4 if both else 2)] * len(places))
    every, tones = torch.arange(len(codes)), torch.arange(notes.shape[-1])
    moves_x = torch.zeros(len(codes), 4, 2, dtype=torch.float64)  # by (w, x before), x
    moves_w = torch.zeros(len(codes), 2, 2, dtype=torch.float64)
    seen = torch.zeros(len(codes), 4, len(tones), 2, dtype=torch.float64)
    for place, (n, t) in enumerate(places):
        w, x = codes[:, place] // 2, codes[:, place] % 2
        before = codes[:, place - 1] if t else torch.zeros_like(w)
        moves_w[every, before // 2, w] += 1
        moves_x[every, (w if name == "4" else 0) * 2 + before % 2, x] += 1
        note = notes[n, t].long()
        first = w * 2 + x if both else x
        context = first[:, None].expand(-1, len(tones))
        if name == "2":
            context = 2 * context + (notes[n, t - 1].long() if t else 0)
        seen[every[:, None], context, tones, note.expand_as(context)] += 1
    prior = 0.9 * torch.eye(2, dtype=torch.float64) + 0.1
    total = _dirichlet(moves_x, prior.repeat(2, 1)) + _dirichlet(seen, torch.tensor([0.9, 0.1]))
    return (total + (_dirichlet(moves_w, prior) if both else 0.0)).logsumexp(0)


def _dirichlet(counts: Tensor, alpha: Tensor) -> Tensor:
    """Log probability of draws in their order, summed over all but the paths."""
    alpha = alpha.double()
    whole = alpha.sum(-1).lgamma() - (alpha + counts).sum(-1).lgamma()
    parts = ((alpha + counts).lgamma() - alpha.lgamma()).sum(-1)
    return (whole + parts).flatten(1).sum(1)


_MODELS = {
    "0": "sequences one by one, in a sequential plate",
    "1": "enumerated states in an inner plate's place; lengths by masks",
    "2": "emissions that depend on those before",
    "3": "two chains of states",
    "4": "two chains, of which one drives the other",
    "5": "a network as a global variable of the module",
    "7": "the states summed out by DiscreteHMM",
}
for _number, _tries in _MODELS.items():
    case(
        f"hmm.py, model_{_number}",
        f"{_tries}; AutoNormal of global probabilities; settings as argument",
        "examples/hmm.py",
        every=f"{GLOBAL}|{ARGUMENT}|{ENUMERATED}",
        certify="depends on observed values",
    )(partial(_markov, name=_number, guide=AutoNormal))
case(
    "hmm.py, model_6",
    "second order; probabilities are parameters, so that each sequence has its exact log p(x)",
    "examples/hmm.py",
    every=f"{ARGUMENT}|{ENUMERATED}",
)(partial(_markov, name="6", guide=None))
case(
    "hmm.py, model_1, its own AutoDelta",
    "maximum a posteriori: no weights, no log p(D)",
    "examples/hmm.py",
    every=f"{DELTA}|{ARGUMENT}",
)(partial(_markov, name="1", guide=AutoDelta))


def _deep(source: Source, *, flows: int) -> Brought:
    dmm = source.module().DMM(
        input_dim=5,
        z_dim=2,
        emission_dim=6,
        transition_dim=6,
        rnn_dim=6,
        num_iafs=flows,
        iaf_dim=6,
    )
    lengths = torch.tensor([4, 2, 3, 4])
    notes = (torch.rand(4, 4, 5) < 0.3).float()
    data = poly.get_mini_batch(torch.arange(4), notes, lengths)
    train(dmm.model, dmm.guide, data, steps=300, learning_rate=0.01)
    reference = by_traces(dmm.model, dmm.guide, data, samples=1000, number=4)
    return Brought(dmm.model, dmm.guide, data, reference)


for _flows in (0, 1):
    case(
        f"dmm.py{', flows' * _flows}",
        "ragged sequences: masked latents and values, and a PackedSequence as argument",
        "examples/dmm.py",
        every=ARGUMENT,
    )(partial(_deep, flows=_flows))


def _seals(source: Source, *, group: str | None, individual: str | None) -> Brought:
    module = source.module()
    sizes = {"state": 2, "random": 2, "group": 2, "individual": 2, "timesteps": 3}
    shape = (2, 2, 3)
    config = {
        "MISSING": 1e-6,
        "sizes": sizes,
        "group": {"random": group, "fixed": None},
        "individual": {"random": individual, "fixed": None, "mask": torch.ones(2, 2).bool()},
        "timestep": {"random": None, "fixed": None, "mask": torch.rand(shape) < 0.9},
        "observations": {
            "step": torch.rand(shape) + 0.1,
            "angle": torch.rand(shape) - 0.5,
            "omega": torch.rand(shape).clamp(0.1, 0.9),
        },
    }
    objective = TraceEnum_ELBO(max_plate_nesting=2)
    model, guide = module.model_generic, module.guide_generic
    train(model, guide, (config,), steps=60, objective=objective, learning_rate=0.01)
    drawn = "continuous" in (group, individual)
    reference = by_enumeration(model, guide, [(config,)], samples=300 if drawn else 1, plates=2)
    ours = pv.EnumeratedELBO(plates=2)
    return Brought(model, guide, (config,), reference, objective, ours, number=2)


for _group, _individual in (
    (None, None),
    ("discrete", None),
    ("continuous", None),
    (None, "continuous"),
):
    case(
        f"mixed_hmm/model.py, group {_group}, individual {_individual}",
        "all data in one dict; enumerated states; groups of individuals",
        "examples/mixed_hmm/model.py",
        every=f"{GLOBAL}|{ARGUMENT}|{ENUMERATED}",
        certify="depends on observed values",
    )(partial(_seals, group=_group, individual=_individual))
