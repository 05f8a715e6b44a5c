"""Containers: what the tests need of a Docker engine, and stand-ins for images out of reach."""

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
