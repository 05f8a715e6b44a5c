"""Old days of the log as Parquet files, before they are deleted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from mlops_loop.base.errors import Failure
from mlops_loop.batch import archive
from mlops_loop.batch.score import score
from mlops_loop.cli.app import APP
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.ids import DAY, midnight, new_prefix
from mlops_loop.prediction_log.partitions import create_day
from mlops_loop.prediction_log.predictions import Entry, insert_predictions, to_lines
from mlops_loop.prediction_log.retention import prune
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS

from . import databases
from .traffic import engine, log_rows

TODAY = midnight(datetime.now(UTC).date())
OUTPUT = {"label": "late", "probabilities": {"late": 0.75, "on time": 0.25}}
ROWS = [{"carrier": "UA", "distance": 1.5, "temp": None}, {"carrier": None, "distance": 2}]


@pytest.fixture(scope="module")
def server() -> Iterator[databases.Postgres]:
    with databases.postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def log(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> sa.Engine:
    """Return a log with two rows on each of the last four days, the first with ground truth."""
    url = f"sqlite:///{(tmp_path / 'log.db').as_posix()}"
    if request.param == "postgresql":
        url = request.getfixturevalue("server").url
    monkeypatch.setenv("PREDICTION_LOG_URL", url)
    made = open_log(url)
    prune(made, TODAY + 2 * DAY)
    with made.begin() as connection:
        for days in range(4):
            time = TODAY - days * DAY + timedelta(hours=1)
            if request.param == "postgresql" and days % 2:
                create_day(connection, time.date())
            lines = to_lines([OUTPUT] * 2, ROWS)
            entry = Entry(new_prefix(time), time, "key", "7", "champion", None, 1.5, lines)
            insert_predictions(connection, [entry])
            known = f"{entry.prefix}0000"
            connection.execute(
                OUTCOMES.insert(), {"prediction_id": known, "value": "late", "time": time}
            )
    return made


def count(log: sa.Engine) -> int:
    with log.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(PREDICTIONS)) or 0)


def days(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/predictions.parquet"))


def test_old_days_are_written_and_read_again(log: sa.Engine, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    result = CliRunner().invoke(APP, ["log", "export", "--older-than", "1", str(folder)])
    assert result.exit_code == 0, result.exception
    assert days(folder) == [f"day={TODAY - n * DAY:%Y-%m-%d}" for n in (3, 2)]
    table = pd.read_parquet(folder)
    assert len(table) == 4
    assert table["carrier"].fillna("").tolist() == ["UA", ""] * 2
    assert table["distance"].tolist() == [1.5, 2.0] * 2
    assert table["temp"].isna().all()
    assert table["outcome"].fillna("").tolist() == ['"late"', ""] * 2
    first = table.iloc[0]
    assert first["prediction_time"] == TODAY - 3 * DAY + timedelta(hours=1)
    assert (first["prediction_model_version"], first["prediction_latency_ms"]) == ("7", 1.5)
    assert len(first["prediction_id"]) == 32
    assert '"late": 0.75' in first["prediction_output"]
    assert count(log) == 8


def test_days_are_deleted_when_their_files_are_whole(log: sa.Engine, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    command = ["log", "prune", "--older-than", "1", "--export"]
    (tmp_path / "file").write_text("in the way")
    result = CliRunner().invoke(APP, [*command, str(tmp_path / "file")])
    assert isinstance(result.exception, OSError)  # which `run` prints as one line
    assert count(log) == 8
    result = CliRunner().invoke(APP, [*command, str(folder)])
    assert "4 predictions deleted" in result.output
    assert count(log) == 4
    assert len(pd.read_parquet(folder)) == 4
    assert not list(folder.rglob(".*"))


def test_a_file_with_more_rows_than_the_log_stays(log: sa.Engine, tmp_path: Path) -> None:
    folder, start = tmp_path, TODAY - 3 * DAY
    assert len(list(archive.export(log, TODAY - DAY, str(folder)))) == 2
    with log.begin() as connection:
        one = sa.select(sa.func.min(PREDICTIONS.c.id)).scalar_subquery()
        connection.execute(sa.delete(PREDICTIONS).where(PREDICTIONS.c.id == one))
    first, second = archive.export(log, TODAY - DAY, str(folder))
    assert (first.rows, first.kept, second.rows, second.kept) == (1, True, 2, False)
    assert pq.read_metadata(first.file).num_rows == 2
    assert first.start == start
    with pytest.raises(Failure, match="has more rows than the log"):
        list(archive.export_and_prune(log, TODAY - DAY, str(folder)))
    assert count(log) == 7


def test_rows_that_come_in_meanwhile_are_not_deleted(log, tmp_path, monkeypatch) -> None:
    def publish(*args, **options) -> None:
        time = TODAY - 3 * DAY
        lines = to_lines([OUTPUT], ROWS[:1])
        with log.begin() as connection:
            late = Entry(new_prefix(time), time, None, "7", "champion", None, 1.5, lines)
            insert_predictions(connection, [late])

    monkeypatch.setattr(archive.storage, "publish", publish)
    with pytest.raises(Failure, match="came in while it was exported"):
        list(archive.export_and_prune(log, TODAY - DAY, str(tmp_path)))
    assert count(log) == 9


def test_types_are_those_of_the_whole_day() -> None:
    parts = [{"a": 1, "b": None, "c": True, "d": "x"}, {"a": 2.5, "b": "x", "c": False, "d": 1}]
    columns = {name: [archive.column([part[name]]).type for part in parts] for name in "abcd"}
    unified = archive.unify(
        [archive.pa.schema({n: t[place] for n, t in columns.items()}) for place in (0, 1)]
    )
    assert [str(kind) for kind in unified.types] == ["double", "string", "bool", "string"]


def test_a_day_is_scored_again(project: Path) -> None:
    from mlops_loop.base import files
    from mlops_loop.data import tables

    log_rows(tables.read_table(files.TEST).head(200), TODAY - DAY, 1)
    (done,) = archive.export(engine(), datetime.now(UTC), "archive")
    assert done.rows == 200
    scored = score(done.file, "again.parquet")
    assert scored.scored == 200
