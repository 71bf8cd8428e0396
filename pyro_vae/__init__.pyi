from . import (
    analysis,
    checkpoint,
    compiled,
    data,
    distributions,
    evidence,
    flows,
    likelihoods,
    networks,
    objectives,
    plots,
    posteriors,
    priors,
    programs,
    training,
)
from .checkpoint import Run, load_run
from .compiled import CompiledStep
from .config import Config
from .data import Data, load
from .enumeration import EnumeratedELBO
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
from .objectives import ELBO, IWAE, Renyi
from .programs import (
    ConditionalVAE,
    HierarchicalVAE,
    Masked,
    SemiSupervisedVAE,
    build_program,
    partially_labelled,
)
from .stored import as_program
from .studies import Study, study
from .training import History, fit
from .vae import VAE

__version__: str

__all__ = [
    "ELBO",
    "IWAE",
    "VAE",
    "Annealing",
    "Certificate",
    "CheckpointError",
    "Comparison",
    "CompiledStep",
    "ConditionalVAE",
    "Config",
    "Data",
    "EnumeratedELBO",
    "Estimate",
    "Evidence",
    "HierarchicalVAE",
    "History",
    "Interrupted",
    "Masked",
    "NonFiniteLoss",
    "PyroVAEWarning",
    "Renyi",
    "Run",
    "SemiSupervisedVAE",
    "Study",
    "UnreliableEvidence",
    "analysis",
    "as_program",
    "build_program",
    "certify",
    "checkpoint",
    "compare",
    "compiled",
    "data",
    "distributions",
    "evidence",
    "fit",
    "flows",
    "likelihoods",
    "load",
    "load_run",
    "log_evidence",
    "networks",
    "objectives",
    "partially_labelled",
    "plots",
    "posteriors",
    "priors",
    "programs",
    "study",
    "training",
]
