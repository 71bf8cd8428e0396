"""Data sets by name or path, and batches of whatever data a user passes in."""

from .columns import infer
from .filling import imputed
from .loading import load, load_rows, load_table
from .named import DATASETS
from .sets import Data, Splits, fingerprint
from .sources import AnyData, Source, as_source, fingerprint_of
from .tables import coded, decoded, describe

__all__ = [
    "DATASETS",
    "AnyData",
    "Data",
    "Source",
    "Splits",
    "as_source",
    "coded",
    "decoded",
    "describe",
    "fingerprint",
    "fingerprint_of",
    "imputed",
    "infer",
    "load",
    "load_rows",
    "load_table",
]
