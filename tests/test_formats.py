"""Formats of other tools: the commands of docs/tfx.md, the groups' own tests, and TFDV by name."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import TEMPLATE, Project, copy, execute

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("formats")]
PAGE = (TEMPLATE / "docs/tfx.md").read_text("utf-8")
TFDV = "tensorflow-data-validation==1.16.1", "dill", "setuptools<81"
# What TFDV is to find: planted in the statistics.
VALIDATE = """
import json, sys
import tensorflow_data_validation as tfdv

schema = tfdv.load_schema_text("schema.pbtxt")

def found(statistics, environment):
    anomalies = tfdv.validate_statistics(statistics, schema, environment=environment)
    return {name: one.short_description for name, one in anomalies.anomaly_info.items()}

statistics = tfdv.load_stats_binary("train.pb")
answers = {"clean": found(statistics, "TRAINING"), "serving": found(statistics, "SERVING")}
(dataset,) = statistics.datasets
by_name = {feature.path.step[0]: feature for feature in dataset.features}
by_name["distance"].num_stats.max = 99_999
carrier = by_name["carrier"].string_stats
carrier.rank_histogram.buckets.add(low_rank=99, high_rank=99, label="??", sample_count=9)
common = by_name["origin"].string_stats.common_stats
common.num_missing, common.num_non_missing = 9, common.num_non_missing - 9
dataset.features.remove(by_name["dest"])
by_name["flight"].type = by_name["flight"].FLOAT
answers["planted"] = found(statistics, "TRAINING")
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def project(pipeline: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A trained project in which the page's commands were run."""
    project = copy(pipeline, tmp_path_factory.mktemp("formats"))
    missing = project.uv(project.slug, "schema", "export", check=False)
    assert missing.returncode == 1
    assert missing.stderr.endswith("is not installed: uv sync --group tfmd\n")
    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
    done = project.run("sh", "-e", "-c", commands)
    assert done.stdout.splitlines()[-1] == "the contract is the same"
    return project


def test_the_package_has_its_own_tests_of_the_formats(project: Project) -> None:
    project.run(
        "uv", "sync", "--inexact", "--all-packages", "--group", "lineage", "--group", "tfmd"
    )
    tests = [
        f"packages/mlops-loop/tests/test_{name}.py" for name in ("tensorflow_metadata", "lineage")
    ]
    done = project.uv("pytest", "-q", *tests, timeout=1200)
    assert "skipped" not in done.stdout


@pytest.mark.skipif(not os.environ.get("TFDV"), reason="TFDV is not asked for: set TFDV=1")
def test_tensorflow_data_validation_reads_both_and_finds_what_is_wrong(
    project: Project, tmp_path: Path
) -> None:
    """TFDV=1, or the Python of an environment that has it: it installs 2.5 GB."""
    python = os.environ["TFDV"]
    if python == "1":
        python = str(tmp_path / "tfdv/bin/python")
        assert execute("uv", "venv", "--python", "3.11", "tfdv", cwd=tmp_path).returncode == 0
        install = "uv", "pip", "install", "--python", python
        done = execute(*install, *TFDV, cwd=tmp_path, timeout=1800)
        assert done.returncode == 0, done.stderr
    done = project.run(python, "-c", VALIDATE, env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["clean"] == {}
    assert {"arrival", "flight", "weekday"} <= found["serving"].keys()
    assert found["planted"] == {
        "distance": "Out-of-range values",
        "carrier": "Unexpected string values",
        "origin": "Column dropped",
        "dest": "Column dropped",
        "flight": "Unexpected data type",
    }
