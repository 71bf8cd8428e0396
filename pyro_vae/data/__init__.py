"""Data sets by name or path, and batches of whatever data a user passes in."""

from .sets import DATASETS, Data, Splits, fingerprint, load
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
