"""A console whose output can also be read in a log."""

import os
import sys

from rich.console import Console


def open_console() -> Console:
    """Return a console for stdout; what is no terminal is wide, so that tables keep their words."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return Console(highlight=False, width=None if known else 120)
