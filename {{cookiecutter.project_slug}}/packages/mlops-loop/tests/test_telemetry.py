import gzip
import json
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan
from pathlib import Path
from threading import Thread
from typing import ClassVar

import requests
import sqlalchemy as sa
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlops_loop.base import files
from mlops_loop.base.project import current_project
from mlops_loop.base.settings import load_settings
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import WINDOWS
from mlops_loop.prediction_log.window_summary import BOUNDS, VERDICTS
from mlops_loop.scoring.bundle import PROMOTION, open_bundle
from mlops_loop.serving.app import create_app
from mlops_loop.serving.http.telemetry import ENDPOINTS, JsonLines

from .server import SERVED, install, running, until, value

NAME = current_project().name

SECRET = "vulpes-vulpes"


class Collector(BaseHTTPRequestHandler):
    """A server for OpenTelemetry data, which keeps (path, body) as they come."""

    received: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        packed = self.headers.get("Content-Encoding") == "gzip"
        self.received.append((self.path, gzip.decompress(body) if packed else body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def ask(address: str, **headers: str) -> None:
    """Send what must not be in any log: the client's own key, query, path and name."""
    row = open_bundle(files.BUNDLE).manifest.example
    headers = {"X-API-Key": SECRET, "User-Agent": SECRET, **headers}
    for method, path, sent, code in (
        ("POST", f"v1/predict?who={SECRET}", row, 200),
        ("POST", "v1/predict", row | {SECRET: SECRET}, 422),
        ("GET", SECRET, row, 404),
        ("GET", f"v2/models/{SECRET}", row, 404),
    ):
        body = {"rows": [sent]}
        url = f"{address}/{path}"
        answer = requests.request(method, url, json=body, headers=headers, timeout=60)
        assert answer.status_code == code


def test_traces_are_sent_where_the_environment_says(project, monkeypatch) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever).start()
        monkeypatch.setenv(ENDPOINTS[0], f"http://127.0.0.1:{server.server_port}")
        try:
            with running() as (address, _):
                ask(address, traceparent=f"00-{trace}-b7ad6b7169203331-01")
        finally:
            server.shutdown()
    assert {path for path, _ in Collector.received} == {"/v1/traces"}  # neither metrics nor logs
    found = [ExportTraceServiceRequest.FromString(body) for _, body in Collector.received]
    resources = [resource for one in found for resource in one.resource_spans]
    names = [item for resource in resources for item in resource.resource.attributes]
    assert {item.value.string_value for item in names if item.key == "service.name"} == {NAME}
    spans = [span for found in resources for scope in found.scope_spans for span in scope.spans]
    predicted = next(span for span in spans if span.name == "POST /v1/predict")
    assert predicted.trace_id.hex() == trace
    assert "GET /v2/models/{name}" in {span.name for span in spans}
    assert SECRET not in str(spans)


def test_the_log_is_json_and_names_no_client_and_nothing_that_is_not_ours(
    project, monkeypatch
) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("API_KEYS", f"a:{SECRET}")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with running() as (address, _):
        ask(address)
    written = Path("server.log").read_text(encoding="utf-8")
    assert SECRET not in written
    assert "onnxruntime" in written
    assert not re.search(r"opentelemetry\.(sdk|exporter)", written)
    rest = [line for line in written.splitlines() if not line.startswith("import time:")]
    lines = list(map(json.loads, rest))
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    answered = [line for line in lines if "path" in line]
    assert [(line["method"], line["path"], line["status"]) for line in answered[-4:]] == [
        ("POST", "/v1/predict", 200),
        ("POST", "/v1/predict", 422),
        ("GET", "other", 404),
        ("GET", "/v2/models/{name}", 404),
    ]
    assert all(line["milliseconds"] > 0 for line in answered)


def test_an_exception_is_one_line_that_says_where_but_not_on_what(caplog) -> None:
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise KeyError(SECRET) from error
    except KeyError:
        logging.getLogger("x").exception("failed to reach //user:%s@host/", SECRET)
    line = JsonLines().format(caplog.records[-1])
    assert "\n" not in line
    assert SECRET not in line
    found = json.loads(line)
    assert (found["level"], found["message"]) == ("ERROR", "failed to reach //host/")
    assert "builtins.ValueError" in found["exception"]
    assert found["exception"].endswith("builtins.KeyError")
    assert Path(__file__).name in found["exception"]


def insert_window(days: int, summary: dict, model: str = "") -> None:
    """Put a window into the log, as the monitor does: one that ended so many days ago."""
    now = datetime.now(UTC)
    times = {"start": now - timedelta(days + 1), "end": now - timedelta(days), "made": now}
    row = {"model": model or load_settings().mlflow_experiment_name, "name": str(days), **times}
    row["summary"] = summary | {name: time.isoformat() for name, time in times.items()}
    with open_log("sqlite:///predictions.db").begin() as connection:
        connection.execute(sa.insert(WINDOWS), row)


def test_the_metrics_tell_what_the_monitor_found_and_when_the_champion_was_promoted(
    project, monkeypatch
) -> None:
    monkeypatch.setenv("BUNDLE", str(SERVED))
    install("1")
    promoted = {"version": "1", "promoted_at": "2013-05-01T00:00:00+00:00"}
    files.write_json(SERVED / PROMOTION, promoted)
    bounds = {"value": 0.7, "low": 0.6, "high": None, "reference": 0.8}
    metrics = {"roc_auc": bounds, "not_known": {"value": None}}
    found = {
        "rows": 1000,
        "verdicts": ["drift", "decay"],
        "performance": {"coverage": 0.25, "metrics": metrics},
        "drift": {"share": 0.5, "columns": {"a": {"score": 1.5, "threshold": 0.5}, "b": {}}},
    }
    insert_window(8, {"rows": 1, "verdicts": ["quality"]})  # an earlier one
    insert_window(1, found)
    insert_window(0, {"rows": 2, "verdicts": ["quality"]}, model="another")
    with TestClient(create_app(), "http://127.0.0.1") as client:

        def told(metric: str, label: str = "") -> float:
            return value(client.get("/metrics").text, metric, label)

        until(lambda: told("model_promoted_timestamp_seconds", '"champion"') == 1367366400)
        assert abs(told("monitor_last_run_timestamp_seconds") - time.time()) < 60
        assert abs(told("monitor_window_end_timestamp_seconds") - time.time() + 86400) < 60
        verdicts = {verdict: told("monitor_verdict", f'"{verdict}"') for verdict in VERDICTS}
        assert verdicts == {"drift": 1, "quality": 0, "decay": 1}
        numbers = [told(f"monitor_{name}") for name in ("rows", "drift_share", "coverage")]
        assert numbers == [1000, 0.5, 0.25]
        columns = [told(f"monitor_column_{name}", '"a"') for name in ("score", "threshold")]
        assert columns == [1.5, 0.5]
        shown = {bound: told("monitor_metric", f'"{bound}"') for bound in BOUNDS}
        assert shown == bounds | {"high": 0}
        for absent in ('column="b"', 'bound="high"', "not_known"):  # what has no value
            assert absent not in client.get("/metrics").text
        install("2")  # without a date
        until(lambda: isnan(told("model_promoted_timestamp_seconds")))
