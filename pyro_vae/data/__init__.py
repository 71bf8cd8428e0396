"""Data sets by name or path, and batches of whatever data a user passes in."""

from .loading import load
from .named import DATASETS
from .sets import Data, Splits, fingerprint
from .sources import AnyData, Source, as_source, fingerprint_of

__all__ = [
    "DATASETS",
    "AnyData",
    "Data",
    "Source",
    "Splits",
    "as_source",
    "fingerprint",
    "fingerprint_of",
    "load",
]
