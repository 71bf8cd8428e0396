from . import (
    analysis,
    compiled,
    data,
    distributions,
    evidence,
    likelihoods,
    models,
    networks,
    objectives,
    plots,
    posteriors,
    priors,
    programs,
    runs,
    training,
)
from .common import errors
from .common.errors import (
    CheckpointError,
    Interrupted,
    NonFiniteLoss,
    PyroVAEWarning,
    UnreliableEvidence,
)
from .compiled import CompiledStep
from .config import Config
from .data import Data, load
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
from .models import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    amortize,
    build_program,
    partially_labelled,
)
from .objectives import ELBO, IWAE, EnumeratedELBO, Renyi
from .programs import Masked, as_program
from .runs import Run, Study, load_run, study
from .training import History, checkpoint, fit

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
    "amortize",
    "analysis",
    "as_program",
    "build_program",
    "certify",
    "checkpoint",
    "compare",
    "compiled",
    "data",
    "distributions",
    "errors",
    "evidence",
    "fit",
    "likelihoods",
    "load",
    "load_run",
    "log_evidence",
    "models",
    "networks",
    "objectives",
    "partially_labelled",
    "plots",
    "posteriors",
    "priors",
    "programs",
    "runs",
    "study",
    "training",
]
