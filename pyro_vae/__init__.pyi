from . import (
    analysis,
    checkpoint,
    data,
    evidence,
    likelihoods,
    networks,
    objectives,
    plots,
    posteriors,
    priors,
    training,
)
from .checkpoint import Run, load_run
from .config import Config
from .data import Data, load
from .errors import CheckpointError, Interrupted, NonFiniteLoss, PyroVAEWarning, UnreliableEvidence
from .evidence import (
    Annealing,
    Certificate,
    Comparison,
    Estimate,
    Evidence,
    certify,
    compare,
    log_evidence,
)
from .objectives import ELBO
from .training import History, fit
from .vae import VAE

__version__: str

__all__ = [
    "ELBO",
    "VAE",
    "Annealing",
    "Certificate",
    "CheckpointError",
    "Comparison",
    "Config",
    "Data",
    "Estimate",
    "Evidence",
    "History",
    "Interrupted",
    "NonFiniteLoss",
    "PyroVAEWarning",
    "Run",
    "UnreliableEvidence",
    "analysis",
    "certify",
    "checkpoint",
    "compare",
    "data",
    "evidence",
    "fit",
    "likelihoods",
    "load",
    "load_run",
    "log_evidence",
    "networks",
    "objectives",
    "plots",
    "posteriors",
    "priors",
    "training",
]
