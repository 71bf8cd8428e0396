"""Likelihoods p(x|z): modules that own the decoder and return a Pyro distribution over x."""

from .base import Likelihood
from .binary import Bernoulli, ContinuousBernoulli
from .columns import Columns
from .counts import Binomial, NegativeBinomial, Poisson
from .inflated import ZeroInflated, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from .levels import Categorical, DiscretizedLogistic, LogisticMixture, PixelMixture
from .real import Laplace, Normal, StudentT
from .unit import Beta, TruncatedNormal

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Columns",
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
    "TruncatedNormal",
    "ZeroInflated",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
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
    "columns": Columns,
    "zero-inflated-poisson": ZeroInflatedPoisson,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
}
