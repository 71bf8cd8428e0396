"""The words of the options: names that the command line, the constructors and the studies share."""

from typing import Literal

__all__ = [
    "KL",
    "Activation",
    "Binarize",
    "Gradient",
    "LikelihoodName",
    "Method",
    "NetworkName",
    "ObjectiveName",
    "PosteriorName",
    "Precision",
    "PriorName",
    "ProgramName",
    "ScaleOf",
    "Schedule",
    "Start",
]

# Names only: this module imports no torch, so that the command line answers at once.
# Tests hold them equal to the registries of the modules that own the parts.
PriorName = Literal[
    "normal",
    "diagonal",
    "student-t",
    "laplace",
    "mixture",
    "vamp",
    "exemplar",
    "flow",
    "hierarchical",
]
LikelihoodName = Literal[
    "bernoulli",
    "continuous-bernoulli",
    "normal",
    "laplace",
    "student-t",
    "discretized-logistic",
    "logistic-mixture",
    "categorical",
    "binomial",
    "poisson",
    "negative-binomial",
]
PosteriorName = Literal["normal", "full", "low-rank", "flow", "hierarchical"]
ProgramName = Literal["vae", "bottom-up", "top-down", "conditional", "semi-supervised"]
NetworkName = Literal["mlp", "gated", "conv", "residual"]
ObjectiveName = Literal["elbo", "iwae", "renyi"]
Gradient = Literal["reparameterized", "stl", "dreg"]
Start = Literal["data", "random"]
ScaleOf = Literal["shared", "value", "network"]
Activation = Literal["tanh", "relu", "softplus", "gelu", "silu"]
Binarize = Literal["dynamic", "static", "threshold", "gray", "dequantized", "none"]
Schedule = Literal["constant", "one-cycle", "cosine"]
KL = Literal["sampled", "analytic"]
Precision = Literal["float32", "bfloat16"]
Method = Literal["guide", "refined", "laplace", "annealed", "auto"]
"""Proposal of importance sampling: a rung of the ladder, or ``"auto"`` to climb it per datum."""
