"""log p(x) per datum: importance sampling, diagnostics, comparison."""

from .annealing import Annealing
from .bounds import Certificate, certify
from .comparison import Comparison, compare
from .diagnostics import effective_sample_size, jackknife, pareto_k, standard_error
from .importance import log_evidence
from .result import Estimate, Evidence

__all__ = [
    "Annealing",
    "Certificate",
    "Comparison",
    "Estimate",
    "Evidence",
    "certify",
    "compare",
    "effective_sample_size",
    "jackknife",
    "log_evidence",
    "pareto_k",
    "standard_error",
]
