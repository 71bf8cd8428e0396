"""Data sets, and batches of whatever a user gives as data."""

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
