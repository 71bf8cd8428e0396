"""Run folders, and what the command line does with them."""

from .folder import Run, load_run
from .study import Study, Usage, study

__all__ = ["Run", "Study", "Usage", "load_run", "study"]
