"""Windows: the dates in params.yaml, moved to the newest labelled data."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from ruamel.yaml.scalarstring import SingleQuotedScalarString

from mlops_loop.base import files
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import ACCEPTED, LOCK, PARAMS
from mlops_loop.base.params import Params

DAY = timedelta(days=1)
Windows = dict[str, dict[str, str | None]]  # the dates that params.yaml shall have, by section


def midnight(time: datetime) -> datetime:
    """Return the beginning of the day, without a time zone as all times of tables are."""
    return time.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)


def format_day(day: datetime | None) -> str | None:
    return day.isoformat().removesuffix("T00:00:00") if day else None


def next_windows(params: Params, oldest: datetime | None, newest: datetime | None) -> Windows:
    """Return windows that end with the newest labelled day; none if rows have no time."""
    if newest is None:
        return {}
    limits = params.retrain
    end = midnight(newest) + DAY
    validation_end = end - limits.test_days * DAY
    train_end = validation_end - limits.validation_days * DAY
    start = params.ingest.start
    if limits.window_days:
        start = train_end - limits.window_days * DAY
    begins = max(filter(None, (start, oldest)), default=train_end)
    if train_end <= begins:
        days = f"{limits.validation_days + limits.test_days} days of validation and test window"
        raise Failure(f"the data begin on {begins:%Y-%m-%d}: {days} leave nothing to learn from")
    windows = {"ingest": {"start": format_day(start), "end": format_day(end)}}
    if params.split.train_end:
        ends = {"train_end": format_day(train_end), "validation_end": format_day(validation_end)}
        windows["split"] = ends
    return windows


def write_windows(windows: Windows) -> None:
    """Write the dates to params.yaml; all else in it stays as it is, comments too."""

    def change(document: Windows) -> None:
        for section, dates in windows.items():
            quoted = {key: day and SingleQuotedScalarString(day) for key, day in dates.items()}
            document[section].update(quoted)

    if windows:
        files.write_text(PARAMS, edited(PARAMS, change))


@contextmanager
def moved(windows: Windows) -> Iterator[None]:
    """Write the dates; put files back as they were if what is done then fails or is interrupted."""
    paths = (PARAMS, LOCK, ACCEPTED)
    before = {path: path.read_bytes() for path in paths if path.is_file()}
    try:
        write_windows(windows)
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        for path, content in before.items():
            with files.writing(path) as tmp_path:
                tmp_path.write_bytes(content)
        raise
