"""The command line: commands and their options, no logic of its own.

Each command imports what it needs when it runs, so that ``--help`` answers at once.
"""

from .main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
