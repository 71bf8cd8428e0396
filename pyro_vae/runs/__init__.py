"""Run folders, and what the command line does with them."""

from .folder import Run, load_run
from .outcome import Study
from .study import study
from .usage import Usage

__all__ = ["Run", "Study", "Usage", "load_run", "study"]
