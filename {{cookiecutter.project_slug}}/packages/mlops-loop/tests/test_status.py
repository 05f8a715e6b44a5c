"""The status page: what it shows of server and monitor; it runs nothing of others."""

import re
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from fastapi.testclient import TestClient

from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import load_schema
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import WINDOWS
from mlops_loop.serving.app import create_app
from mlops_loop.serving.pages import charts, model_page, recorder, samples, status_page
from mlops_loop.serving.pages.recorder import Recorder
from mlops_loop.serving.pages.samples import Sample, take_sample, to_points
from mlops_loop.serving.pages.service_charts import service_charts
from mlops_loop.serving.service import Service

from .server import running, until
from .test_page import HOSTILE, Reader

NAME = current_project().name

URL = "sqlite:///predictions.db"
START = datetime(2013, 5, 1, tzinfo=UTC)
SUMMARY: dict[str, Any] = {
    "rows": 28128,
    "verdicts": ["drift"],
    "alarms": [
        {"rule": "drift: temperature", "verdict": "drift", "text": "the temperature is another"}
    ],
    "drift": {"share": 0.25, "columns": {}},
    "performance": {
        "coverage": 0.89,
        "metrics": {"roc_auc": {"value": 0.645, "low": 0.637, "high": 0.653, "reference": 0.712}},
        "calibration_error": {"value": 0.09, "low": None, "high": None, "reference": 0.02},
    },
}


def found(month: int, model: str | None = None, name: str = "", **changes: Any) -> datetime:
    """Put a window into the log, as the monitor does; return when it was made."""
    start, made = START + timedelta(days=30 * month), datetime.now(UTC)
    summary = deepcopy(SUMMARY) | changes
    row = {
        "model": model or load_settings().mlflow_experiment_name,
        "name": name or f"{start:%Y-%m-%d}",
    }
    row |= {"start": start, "end": start + timedelta(days=30), "made": made, "summary": summary}
    with open_log(URL).begin() as connection:
        connection.execute(sa.insert(WINDOWS), row)
    return made


def drifted(*names: str, score: float = 1.2) -> dict[str, Any]:
    columns = {
        name: {"method": "x", "score": score, "threshold": 0.6, "drifted": True} for name in names
    }
    return {"share": 0.25, "columns": columns}


@pytest.fixture
def service(project: Path) -> Service:
    open_log(URL)
    return Service(load_settings())


def read(service: Service, keeper: Recorder | None = None) -> Reader:
    """The page, whose elements are all closed."""
    if keeper is None:
        keeper = Recorder(service)
        keeper.refresh_windows()
    made = Reader(status_page.html(service, keeper))
    assert not made.open
    return made


def words(made: Reader) -> str:
    return re.sub(r"\s+", " ", " ".join(made.texts))


def sample(time: float, requests: float = 0, slow: float = 0, **more: float) -> Sample:
    """A sample of a server that answers within 10 ms, but some within 100."""
    buckets = {0.01: requests - slow, 0.1: requests, inf: requests}
    values = {
        "failed": 0.0,
        "refused": 0.0,
        "rows": 10 * requests,
        "in_flight": 0.0,
        "waiting": 0.0,
    } | more
    return Sample(time=time, requests=requests, buckets=buckets, **values)


def test_the_page_is_open_refreshes_itself_and_asks_nobody_else(project, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "a:first")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        answer, first = client.get("/status"), client.get("/")
        made = Reader(answer.text)
        for link in made.all("a"):
            assert client.get(f"/{link['href']}").status_code == 200
    assert answer.status_code == 200
    assert 'href="status"' in first.text
    for name, value in model_page.HEADERS.items():
        assert answer.headers[name] == value
    assert not made.all("script", "img", "iframe", "form")
    assert {"http-equiv": "refresh", "content": "15"} in made.all("meta")
    outside = r"^(?!data:)(?:[a-z]+:|//)"
    links = [one.get("src", "") + one.get("href", "") for one in made.all("link", "a")]
    assert not [link for link in links if re.match(outside, link)]
    assert not re.search(r"url\(|@import|http", status_page.STYLE)
    assert len(made.all("svg")) == 6
    assert all(one["aria-label"] for one in made.all("svg"))


def test_rates_and_times_are_those_of_the_last_minute() -> None:
    taken = [sample(10 * place, 100 * place) for place in range(10)]
    taken.append(sample(100, 1000, slow=60, failed=6, refused=60, in_flight=3))
    (*_, now) = to_points(taken)
    assert (now.requests, now.rows, now.in_flight) == (10, 100, 3)
    assert (now.failed, now.refused) == (0.01, 0.1)
    assert now.p50 == pytest.approx(10 * 300 / 540)
    assert now.p95 == pytest.approx(10 + 90 * (570 - 540) / 60)
    assert now.p99 == pytest.approx(10 + 90 * (594 - 540) / 60)
    quiet = to_points([sample(0, 5), sample(10, 5)])[0]
    assert (quiet.requests, quiet.failed, quiet.p50) == (0, None, None)
    assert (
        samples.quantile_ms({0.1: 0, inf: 10}, 0.5) == 100
    )  # longer than the last limit: at least that
    assert to_points([sample(0)]) == []


def test_trends_have_a_point_for_each_time_and_gaps_where_nobody_asked() -> None:
    busy = [sample(10 * place, 100 * place) for place in range(20)]
    pause = [sample(200 + 10 * place, 1900) for place in range(20)]
    again = [sample(400 + 10 * place, 1900 + 100 * place) for place in range(20)]
    made = Reader(service_charts([*busy, *pause, *again]))
    label = next(one["aria-label"] for one in made.all("svg") if "requests" in one["aria-label"])
    assert label == "requests 10"
    paths = [one for one in made.all("path") if one["class"] == "line0"]
    assert [one["d"].count("M") for one in paths] == [
        1,
        2,
        2,
        1,
        1,
        1,
    ]  # shares and times have a gap
    numbers = [
        float(number) for one in made.all("path") for number in re.findall(r"[\d.]+", one["d"])
    ]
    assert 0 <= min(numbers) <= max(numbers) <= charts.WIDTH


def test_what_the_server_counts_is_what_the_page_shows(client, row) -> None:
    before = take_sample()
    for rows in ([row] * 3, [row], [{}]):
        client.post("/v1/predict", json={"rows": rows})
    client.get("/health/ready")
    after = take_sample()
    assert after.requests - before.requests == 3
    assert after.refused - before.refused == 1
    assert after.rows - before.rows == 4
    assert max(after.buckets.values()) - max(before.buckets.values(), default=0) == 3
    assert after.in_flight == 0


def test_the_state_tells_what_is_wrong(service) -> None:
    def shown() -> tuple[str, str]:
        made = read(service, Recorder(service))
        return made.all("section")[0]["data-state"], words(made)

    state, text = shown()
    assert state == "good"
    assert f"Version {service.model.version} is ready" in text
    assert "promoted never" in text
    service.champion.refused = "it is broken"
    assert shown()[0] == "poor"
    assert "a newer bundle cannot be served (champion)" in shown()[1]
    service.writer.database.available = False
    assert "the prediction log is unreachable" in shown()[1]
    service.writer.full = True
    assert shown()[0] == "bad"
    assert "takes no more" in shown()[1]


def test_the_monitors_windows_are_shown(service) -> None:
    assert f"{NAME} monitor" in words(read(service))
    name = next(iter(load_schema().features))
    for month in range(14):
        found(month, verdicts=[], alarms=[])
    found(20, name="the newest", drift=drifted(name))
    found(21, model="another", name="of another model")
    made = read(service)
    text = words(made)
    assert "drift in the newest, checked just now" in text
    assert "the temperature is another" in text
    assert "0.645 0.637 to 0.653" in text
    assert f"{name} 1.2 of 0.6" in text
    assert "25 %" in text
    assert "of another model" not in text
    assert len(made.all("tr")) == 1 + recorder.WINDOWS_SHOWN
    assert len(made.all("svg")) == 6 + 2
    classes = [one["class"] for one in made.all("path")]
    assert classes.count("band") == classes.count("dashed") == 1


def test_windows_without_outcomes_or_of_a_later_version_are_shown_as_far_as_they_can_be(
    service,
) -> None:
    found(0, performance=None, drift=None)
    assert len(read(service).all("svg")) == 6 + 1
    found(1, performance={"coverage": 0, "metrics": {}, "calibration_error": None})
    found(
        2,
        performance={
            "metrics": {"mae": {"value": 8.0, "low": None, "high": None, "reference": None}}
        },
    )
    assert "mae 8" in words(read(service))
    with open_log(URL).begin() as connection:
        connection.execute(sa.update(WINDOWS).values(summary={}))
    assert "nothing" in words(read(service))


def test_nothing_that_a_window_or_a_contract_says_becomes_part_of_the_page(service) -> None:
    usual = {name for _, one in read(service).elements for name in one}
    for month in range(2):
        alarms = [{"rule": HOSTILE, "verdict": HOSTILE, "text": HOSTILE}]
        metric = {HOSTILE: {"value": 1.0, "low": 0.5, "high": 1.5, "reference": 1.0}}
        changes = {"drift": drifted(HOSTILE), "performance": {"metrics": metric}, "alarms": alarms}
        found(month, name=HOSTILE[:60] + str(month), verdicts=[HOSTILE, "decay"], **changes)
    model = service.champion.model
    promotion = model.bundle.promotion.model_copy(update={"version": HOSTILE})
    service.champion.model = replace(model, bundle=replace(model.bundle, promotion=promotion))
    made = read(service)
    text = " ".join(made.texts)
    assert text.count(HOSTILE) >= 5  # version, alarm, metric, column, head of the table
    assert text.count(HOSTILE[:60]) >= 3 + 5
    assert not made.all("script", "img")
    assert not [one for _, one in made.elements if {"src", "onerror"} & one.keys()]
    attributes = {name for _, one in made.elements for name in one}
    assert attributes <= {*usual, "style", "scope", "class", "d"}


def test_while_the_database_is_away_what_was_known_stays(service) -> None:
    found(0, name="a window")
    keeper = Recorder(service)
    keeper.refresh_windows()
    service.writer.engine.dispose()
    for path in Path().glob("predictions.db*"):
        path.unlink()
    Path("predictions.db").mkdir()
    keeper.refresh_windows()
    assert "a window" in words(read(service, keeper))


def test_all_workers_show_the_same(project, row) -> None:
    found(0, name="a window")
    with running("--workers", "2") as (address, _):

        def shows(text: str) -> bool:
            """Whether they do so, whichever of them answers."""
            asked = [requests.get(f"{address}/status", timeout=60).text for _ in range(10)]
            return all(text in one for one in asked)

        for _ in range(20):
            answer = requests.post(f"{address}/v1/predict", json={"rows": [row]}, timeout=60)
            assert answer.status_code == 200
        until(lambda: shows("a window"))
        assert "predictions wait on disk" not in requests.get(f"{address}/status", timeout=60).text
