"""Badges of a window's verdicts."""

from collections.abc import Iterable

from mlops_loop.reporting.page import badge

COLOURS = {"drift": "#9a6700", "quality": "#bc4c00", "decay": "#cf222e"}
FINE = "#1a7f37"


def badges(verdicts: Iterable[str]) -> str:
    found = [badge(name, COLOURS[name]) for name in verdicts]
    return "".join(found) or badge("nothing to report", FINE)
