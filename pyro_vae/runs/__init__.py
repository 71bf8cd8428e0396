"""Run folders, and what the command line does with them."""

from .export import export_run
from .folder import Run, load_run
from .outcome import Study
from .study import study
from .tables import impute_run
from .usage import Usage

__all__ = ["Run", "Study", "Usage", "export_run", "impute_run", "load_run", "study"]
