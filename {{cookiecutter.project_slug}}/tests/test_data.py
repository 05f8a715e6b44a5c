import numpy as np
import pandas as pd
import pytest

from {{ cookiecutter.__package_name }} import files, ingest, validate
from {{ cookiecutter.__package_name }}.errors import Failure, Refusal
from {{ cookiecutter.__package_name }}.params import Split, load_params
from {{ cookiecutter.__package_name }}.schema import load_schema
from {{ cookiecutter.__package_name }}.split import split

AFTER_DEPARTURE = ["dep_time", "dep_delay", "arr_time", "air_time", "arr_delay"]


def test_nothing_known_only_after_departure_reaches_the_model(project) -> None:
    features, target = list(load_schema().features), load_schema().target
    fixed = {"year": 2013, "month": 1, "day": 1, "minute": 5, "sched_arr_time": 1430, "carrier": "UA"}
    fixed |= {"origin": "JFK", "dest": "LAX", "distance": 2475, "hour": range(24), "flight": range(24)}
    flights = pd.DataFrame(fixed | {name: np.arange(24.0) for name in (*ingest.WEATHER, *AFTER_DEPARTURE)})
    later = flights.assign(**{name: flights[name] * -100 for name in AFTER_DEPARTURE})
    before, after = (ingest.departures(source) for source in (flights, later))
    pd.testing.assert_frame_equal(before[features], after[features])
    assert not before[target].equals(after[target])


@pytest.mark.parametrize(
    ("column", "rule", "poison"),
    [
        ("carrier", "column to exist", lambda t: t.rename(columns={"carrier": "airline"})),
        ("carrier", "in set", lambda t: t.assign(carrier=t.carrier.replace("UA", "??"))),
        ("carrier", "be null", lambda t: t.assign(carrier=t.carrier.where(t.index != 3))),
        ("distance", "between", lambda t: t.assign(distance=t.distance * 10)),
        ("distance", "type", lambda t: t.assign(distance=t.distance.astype(str))),
        ("pressure", "be null", lambda t: t.assign(pressure=np.nan)),
        ("the table", "row count", lambda t: t.head(10)),
        ("scheduled_departure, carrier, flight", "unique", lambda t: pd.concat([t, t.head(1)])),
    ],
)
def test_bad_data_is_found(project, column, rule, poison) -> None:
    table, schema = files.read_table(files.RAW), load_schema()
    assert all(check["passed"] for check in validate.check(table, schema))
    failed = [check for check in validate.check(poison(table), schema) if not check["passed"]]
    assert (column, True) in [(check["column"], rule in check["rule"]) for check in failed]


def test_refused_data_ends_the_stage_but_leaves_the_report(project) -> None:
    files.write_table(files.RAW, files.read_table(files.RAW).assign(distance=-1))
    with pytest.raises(Refusal, match=r"distance: .* 8,\d+ rows, for example -1"):
        validate.main()
    assert files.read_json(files.REPORTS / "data/validation.json")["passed"] is False
    assert "http" not in (files.REPORTS / "data/validation.html").read_text(encoding="utf-8")


def test_split_is_by_time_and_says_when_a_window_is_empty(project) -> None:
    table, schema = files.read_table(files.RAW), load_schema()
    windows = split(table, schema, load_params().split).values()
    assert sum(map(len, windows)) == len(table)
    ends = [when for window in windows for when in window[schema.timestamp].agg(["min", "max"])]
    assert ends == sorted(ends)
    with pytest.raises(Failure, match="the test window has 0 rows"):
        split(table, schema, Split(train_end="2013-09-01", validation_end="2014-10-01"))


def test_codes_stay_text_and_rows_without_a_time_are_left_for_validate(project) -> None:
    (project / "own.csv").write_text("scheduled_departure,carrier\n2013-01-02,01\n,NA\n")
    schema, params = load_schema(), load_params().ingest
    table = ingest.select(ingest.read_source("own.csv", schema), schema, params)
    assert list(table.carrier) == ["01", "NA"]
    failed = [check for check in validate.check(table, schema) if not check["passed"]]
    assert ("scheduled_departure", 1) in [(check["column"], check["failed_rows"]) for check in failed]
