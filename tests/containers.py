"""Containers: what the tests need of a Docker engine, and stand-ins for images out of reach."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import execute
from tools import need_program

STANDINS = Path(__file__).parent / "standins"


def docker(*args: str | Path, check: bool = True, **env: str) -> str:
    """Run docker and return what it printed."""
    done = execute("docker", *args, cwd=STANDINS, env=env)
    if check and done.returncode:
        pytest.fail(
            f"docker {' '.join(map(str, args))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done.stdout.strip()


def need_engine() -> None:
    """Skip where no engine runs containers."""
    need_program("docker")
    if execute("docker", "info", cwd=STANDINS, timeout=30).returncode:
        pytest.skip("no Docker engine answers")


def need_image(name: str) -> None:
    """Skip where an image is neither here nor to be had."""
    if execute("docker", "image", "inspect", name, cwd=STANDINS).returncode == 0:
        return
    if execute("docker", "pull", "--quiet", name, cwd=STANDINS).returncode == 0:
        return
    standin = STANDINS / name.partition(":")[0]
    if not standin.is_dir():
        pytest.skip(f"{name} cannot be pulled")
    docker("build", "--tag", name, standin)


@contextmanager
def serve_registry(folder: Path) -> Iterator[str]:
    """Run a registry on a free loopback port; give its address."""
    program = need_program("docker-registry", "docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": {"addr": "127.0.0.1:0"},
    }
    (folder / "config.yml").write_text(json.dumps(config), "utf-8")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, "serve", folder / "config.yml"], stderr=log)
    try:
        for _ in range(300):
            if found := re.search(r"listening on (127\.0\.0\.1:\d+)", (folder / "log").read_text()):
                break
            time.sleep(0.1)
        assert found, (folder / "log").read_text()
        yield found[1]
    finally:
        process.terminate()
        process.wait()


def key_pair(folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True)
    made = execute("cosign", "generate-key-pair", cwd=folder, env={"COSIGN_PASSWORD": "pw"})
    assert made.returncode == 0, made.stderr
    return {
        "COSIGN_PASSWORD": "pw",
        "COSIGN_PRIVATE_KEY": (folder / "cosign.key").read_text("utf-8"),
    }
