"""A console whose output can also be read in a log."""

import os
import sys

from rich.console import Console

WIDE = 120  # columns of what is no terminal: a table must not lose its words there


def open_console() -> Console:
    """Return a console for stdout, WIDE where that is no terminal, unless COLUMNS is set."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return Console(highlight=False)
    return Console(highlight=False, width=WIDE)
