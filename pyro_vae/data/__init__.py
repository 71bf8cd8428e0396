"""Data sets, and batches of whatever a user gives as data."""

from .sets import DATASETS, Data, Splits, fingerprint, load

__all__ = ["DATASETS", "Data", "Splits", "fingerprint", "load"]
