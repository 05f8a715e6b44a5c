import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import LatencyGate, ServerGate, load_params
from mlops_loop.data import tables
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release.smoke_test import server
from mlops_loop.release.smoke_test.run import check, fuzz, odd_requests, smoke_test
from mlops_loop.scoring.bundle import (
    MANIFEST,
    Bundle,
    Manifest,
    open_bundle,
    read_document,
    write_manifest,
)

LIMITS = ServerGate(requests=30, fuzz=60, timeout=60)
ANY_SPEED = LatencyGate(p95_milliseconds=1e6)
Running = tuple[Any, ...]


@pytest.fixture
def bundle(project) -> Bundle:
    return open_bundle(files.BUNDLE)


@pytest.fixture
def running(bundle, tmp_path) -> Iterator[Running]:
    """The address of a server with the bundle, a client of it, and the bundle."""
    log_url = f"sqlite:///{(tmp_path / 'log.db').as_posix()}"
    with server.server(files.BUNDLE, log_url, tmp_path / "server.log") as (address, client):
        yield address, client, bundle


def judged(bundle: Bundle, **changed: Any) -> list[GateResult]:
    limits = {"server": LIMITS, "latency": ANY_SPEED, **changed}
    gates = load_params().gates.model_copy(update=limits)
    return smoke_test(bundle, tables.read_table(files.TEST), gates)


def asked(running: Running, latency: LatencyGate | None = ANY_SPEED) -> list[GateResult]:
    return check(*running, tables.read_table(files.TEST), LIMITS, latency)


def reseal(**facts: Any) -> None:
    """Make the bundle whole again after a change of its files or facts."""
    manifest = read_document(files.BUNDLE / MANIFEST, Manifest)
    write_manifest(files.BUNDLE, manifest.model_copy(update=facts))


def test_a_good_bundle_passes_and_the_real_log_stays_as_it_is(bundle) -> None:
    before = sorted(Path().rglob("*"))
    found = judged(bundle)
    gates = [(result.gate, result.passed) for result in found]
    assert gates == [("server", True)] * 3 + [("latency", True)], found
    assert sorted(Path().rglob("*")) == before


def test_a_bundle_that_does_not_start_is_refused_with_the_reason(bundle) -> None:
    (files.BUNDLE / "model.onnx").write_bytes(b"no model")
    reseal()
    refused, latency = judged(bundle)
    assert (refused.gate, refused.passed, latency.passed) == ("server", False, None)
    assert "the server does not start: " in refused.measure
    assert "onnx" in refused.measure.lower()
    assert "\n" not in refused.measure
    refused, _ = judged(bundle, server=LIMITS.model_copy(update={"timeout": 1e-6}))
    assert not refused.passed
    assert "was not ready within 1e-06 seconds" in refused.measure


def test_a_server_that_answers_otherwise_is_refused(bundle) -> None:
    facts = {"threshold": 2.0, "half_width": 1e9, "classes": bundle.manifest.classes[::-1]}
    reseal(**{key: value for key, value in facts.items() if getattr(bundle.manifest, key)})
    _, answers, odd, _ = judged(bundle)
    assert answers.passed is False
    assert answers.value > 0  # rows that would be called otherwise
    assert odd.passed


def test_odd_requests_speed_and_a_server_that_fails_are_judged(running, tmp_path) -> None:
    address, client, bundle = running
    for limits, passed in ((LatencyGate(p95_milliseconds=1e-6), False), (None, None)):
        answers, odd, latency = asked(running, limits)
        assert (latency.gate, latency.passed) == ("latency", passed)
        assert (answers.passed, odd.passed) == (True, True)
    known = bundle.schema, bundle.manifest.example
    assert fuzz(address, client, *known, 300) == []
    sent = list(islice(odd_requests(*known), 60))
    assert len({odd.about for odd in sent}) > 20
    # Neither log nor spool can be written: so no prediction can be kept, and none be answered.
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    (tmp_path / "log.db").mkdir()
    shutil.rmtree(tmp_path / "server.spool")
    (tmp_path / "server.spool").write_text("")
    wrong = fuzz(address, client, *known, 60)
    allowed = [f"{odd.about}: 503" for odd in sent if odd.acceptable]
    assert wrong == [*allowed, "afterwards: not ready"]
    _, odd, _ = asked(running)
    assert (odd.passed, odd.value) == (False, len(wrong))
    assert "503" in odd.measure
    answers, odd, _ = asked(("http://127.0.0.1:9", client, bundle))  # nothing is there
    assert (answers.passed, odd.passed) == (False, False)
    assert "no answer" in odd.measure


def test_gates_that_are_off_say_so_and_start_nothing(bundle) -> None:
    nowhere = replace(bundle, folder=Path("nowhere"))
    for latency, words in ((ANY_SPEED, "not measured, as gates.server is off"), (None, "off")):
        found = judged(nowhere, server=None, latency=latency)
        assert found == [GateResult("server", "off"), GateResult("latency", words)]


def test_without_uv_there_is_one_clear_failure(bundle, monkeypatch) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Failure, match="uv is not on PATH"):
        judged(bundle)
