"""One HTML file about trained models: it opens from disk and computes with their networks."""

from .content import Subject
from .operations import UnknownPart, operations
from .page import render, write_report

__all__ = ["Subject", "UnknownPart", "operations", "render", "write_report"]
