"""The windows of a candidate, as a user would write them into params.yaml."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from showcase.project import edit_params, load_params
from showcase.story import first_day

DELAY = timedelta(days=1)  # until the outcome of a flight is known
Windows = Mapping[str, Mapping[str, str | int | None]]


def windows_before(folder: Path, month: int, recent_days: int | None = None) -> Windows:
    """Return the windows of a candidate made when this month begins: they end with what is known.

    It learns from all that is earlier, or from `recent_days` alone.
    """
    retrain = load_params(folder)["retrain"]
    end = first_day(month) - DELAY
    validation_end = end - timedelta(days=retrain["test_days"])
    train_end = validation_end - timedelta(days=retrain["validation_days"])
    start = train_end - timedelta(days=recent_days) if recent_days else first_day(1)
    return {
        "ingest": {"start": text(start), "end": text(end)},
        "split": {"train_end": text(train_end), "validation_end": text(validation_end)},
    }


def write_windows(folder: Path, windows: Windows) -> None:
    edit_params(folder, windows)


def text(day: datetime) -> str:
    return f"{day:%Y-%m-%d}"
