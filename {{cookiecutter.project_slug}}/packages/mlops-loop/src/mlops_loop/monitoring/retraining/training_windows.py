"""Training windows: the dates in params.yaml, moved to the newest labelled data."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from mlops_loop.base import files
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import PARAMS
from mlops_loop.base.params import Params
from mlops_loop.monitoring.retraining.decision import Evidence

DAY = timedelta(days=1)
Dates = dict[str, str | None]


class TrainingWindows(BaseModel, frozen=True):
    """The dates that params.yaml shall have, by section; none if no labelled row has a time."""

    ingest: Dates | None = None
    split: Dates | None = None

    def document(self) -> dict[str, Dates]:
        sections = {"ingest": self.ingest, "split": self.split}
        return {section: dates for section, dates in sections.items() if dates}


def midnight(time: datetime) -> datetime:
    """Return the beginning of the day, without a time zone as all times of tables are."""
    return time.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)


def format_day(day: datetime | None) -> str | None:
    return day.isoformat().removesuffix("T00:00:00") if day else None


def next_windows(params: Params, evidence: Evidence) -> TrainingWindows:
    """Return windows that end with the day of the newest labelled row.

    Raises a Failure if nothing would be left to learn from.
    """
    if evidence.newest is None:
        return TrainingWindows()
    limits = params.retrain
    end = midnight(evidence.newest) + DAY
    validation_end = end - limits.test_days * DAY
    train_end = validation_end - limits.validation_days * DAY
    start = params.ingest.start
    if limits.window_days:
        start = train_end - limits.window_days * DAY
    begins = max(filter(None, (start, evidence.oldest)), default=train_end)
    if train_end <= begins:
        days = f"{limits.validation_days + limits.test_days} days of validation and test window"
        raise Failure(f"the data begin on {begins:%Y-%m-%d}: {days} leave nothing to learn from")
    split = None
    if params.split.train_end:
        split = {
            "train_end": format_day(train_end),
            "validation_end": format_day(validation_end),
        }
    return TrainingWindows(
        ingest={"start": format_day(start), "end": format_day(end)},
        split=split,
    )


def write_windows(windows: TrainingWindows) -> None:
    """Write the dates to params.yaml; all else in it stays as it is, comments too."""
    sections = windows.document()
    if not sections:
        return

    def change(document: dict[str, dict[str, str | None]]) -> None:
        for section, dates in sections.items():
            quoted = {key: day and SingleQuotedScalarString(day) for key, day in dates.items()}
            document[section].update(quoted)

    files.write_text(PARAMS, edited(PARAMS, change))


@contextmanager
def put_back(*paths: Path) -> Iterator[None]:
    """Put files back as they were if what is done meanwhile fails or is interrupted."""
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
                continue
            with files.writing(path) as tmp_path:
                tmp_path.write_bytes(content)
        raise
