"""log p(x) per datum: importance sampling, diagnostics, comparison."""

from .annealing import Annealing
from .bias import convergence, delta_corrected, multilevel, unbiased_log_evidence
from .bounds import Certificate, certify
from .bridge import bridge
from .comparison import Comparison, compare
from .diagnostics import effective_sample_size, jackknife, pareto_k, standard_error
from .export import to_csv, to_datatree, write_csv
from .importance import log_evidence
from .imputation import Imputation, impute
from .posterior import PosteriorDraws, sample_posterior
from .predictive import log_predictive
from .result import Estimate, Evidence
from .seeds import SeedComparison, SeedRow, compare_seeds

__all__ = [
    "Annealing",
    "Certificate",
    "Comparison",
    "Estimate",
    "Evidence",
    "Imputation",
    "PosteriorDraws",
    "SeedComparison",
    "SeedRow",
    "bridge",
    "certify",
    "compare",
    "compare_seeds",
    "convergence",
    "delta_corrected",
    "effective_sample_size",
    "impute",
    "jackknife",
    "log_evidence",
    "log_predictive",
    "multilevel",
    "pareto_k",
    "sample_posterior",
    "standard_error",
    "to_csv",
    "to_datatree",
    "unbiased_log_evidence",
    "write_csv",
]
