"""Likelihoods p(x|z): modules that own the decoder and return a Pyro distribution over x."""

from .base import Likelihood
from .binary import Bernoulli, ContinuousBernoulli
from .counts import Binomial, NegativeBinomial, Poisson
from .levels import Categorical, DiscretizedLogistic, LogisticMixture, PixelMixture
from .real import Laplace, Normal, StudentT

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "NegativeBinomial",
    "Normal",
    "PixelMixture",
    "Poisson",
    "StudentT",
]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous-bernoulli": ContinuousBernoulli,
    "normal": Normal,
    "laplace": Laplace,
    "student-t": StudentT,
    "discretized-logistic": DiscretizedLogistic,
    "logistic-mixture": LogisticMixture,
    "pixel-mixture": PixelMixture,
    "categorical": Categorical,
    "binomial": Binomial,
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
}
