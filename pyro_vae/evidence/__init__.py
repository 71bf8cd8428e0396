"""log p(x) per datum: importance sampling, diagnostics, comparison."""

from .annealing import Annealing
from .comparison import Comparison, compare
from .diagnostics import effective_sample_size, jackknife, pareto_k, standard_error
from .importance import log_evidence
from .result import Estimate, Evidence

__all__ = [
    "Annealing",
    "Comparison",
    "Estimate",
    "Evidence",
    "compare",
    "effective_sample_size",
    "jackknife",
    "log_evidence",
    "pareto_k",
    "standard_error",
]
