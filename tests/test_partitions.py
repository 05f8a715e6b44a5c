"""Partitions in an object store: ingested and scored by the verbs, only what is new or changed."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import Project, copy
from servers import object_store
from test_own_data import sources

pytestmark = pytest.mark.slow

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
PUT = """
import sys, fsspec, pandas
s3 = fsspec.filesystem("s3")
s3.makedirs("lake", exist_ok=True)
rows = pandas.read_parquet("data/raw.parquet" if len(sys.argv) < 3 else sys.argv[2])
rows.to_parquet("rows.parquet")
rows = rows[rows.scheduled_departure.dt.day <= 2]
for (month, origin), some in rows.groupby([rows.scheduled_departure.dt.month, "origin"]):
    if str(month) in sys.argv[1].split(","):
        name = f"s3://lake/flights/year=2013/month={month:02}/origin={origin}/part-0.parquet"
        some.drop(columns="origin").to_parquet(name, index=False)
"""
VANISH = """
import sys
from mlops_loop.base import project
from mlops_loop.data import ingest
from mlops_loop.data.source import cached
from flight_delays.project import PROJECT
original = cached.part_rows
def part_rows(table, name, part):
    if "month=04/origin=LGA" in name:
        import fsspec
        fsspec.filesystem("s3").rm(part.place)
    return original(table, name, part)
cached.part_rows = part_rows
project.use(PROJECT)
from mlops_loop.base.errors import run
run(ingest.main)
"""


def raw(project: Project) -> str:
    return sha256((project.path / "data/raw.parquet").read_bytes()).hexdigest()


def one_line(project: Project, *words: str, **env: str) -> str:
    """Return the one line that a command fails with."""
    done = project.uv(*words, env=env, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    return done.stderr


def test_an_object_store(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path)
    with object_store() as address:
        env = KEYS | {"AWS_ENDPOINT_URL": address}
        project.uv("python", "-c", PUT, "1,2,4", env=env)
        ingested(project, env)
        scored(project, env)
        refused(project, env)


def ingested(project: Project, env: dict[str, str]) -> None:
    lake = "s3://lake/flights"
    first = sources(project, lake, **env)
    project.uv("python", "-c", PUT, "3,4,5", "rows.parquet", env=env)
    said = project.uv(project.slug, "ingest", env=env).stdout
    assert "partitions: 3 new, 0 changed, 3 late (older than the newest already there), " in said
    assert "  late: year=2013/month=03/origin=EWR, " in said
    bit_by_bit = raw(project)
    project.run("rm", "-r", "build/partitions")
    assert sources(project, lake, **env) > first
    assert raw(project) == bit_by_bit


def scored(project: Project, env: dict[str, str]) -> None:
    env = env | {"BUNDLE": "build/bundle"}
    words = project.slug, "score", "s3://lake/flights", "s3://lake/scored", "--incremental"
    said = project.uv(*words, env=env).stdout
    assert "partitions: 15 new, 0 changed, 0 late, 0 unchanged, 0 gone" in said
    project.uv("python", "-c", PUT, "6", "rows.parquet", env=env)
    said = project.uv(*words, env=env).stdout
    assert "partitions: 3 new, 0 changed, 0 late, 15 unchanged, 0 gone" in said
    names = "import fsspec; print(*fsspec.filesystem('s3').find('lake/scored'))"
    found = project.uv("python", "-c", names, env=env).stdout.split()
    assert "lake/scored/year=2013/month=06/origin=JFK/part-0.parquet" in found
    show = "import fsspec; print(fsspec.filesystem('s3').cat('lake/scored/_scored.json').decode())"
    manifest = json.loads(project.uv("python", "-c", show, env=env).stdout)
    assert len(manifest["files"]) == 18


def refused(project: Project, env: dict[str, str]) -> None:
    before = raw(project)
    project.run("rm", "-r", "build/partitions")
    said = one_line(project, "python", "-c", VANISH, **env)
    assert "month=04/origin=LGA/part-0.parquet vanished while its folder was read" in said
    nobody = {key: value for key, value in env.items() if "KEY" not in key}
    said = one_line(project, project.slug, "ingest", **nobody, AWS_EC2_METADATA_DISABLED="true")
    assert "s3://lake/flights cannot be read: " in said
    assert raw(project) == before
