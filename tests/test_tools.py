"""A skip that CI may not do without is a failure."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import execute

SKIPS = """
import pytest
from tools import fail_unless_allowed

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    fail_unless_allowed(report)
    return report
"""
TEST = """
import pytest

def test_it():
    pytest.skip(REASON)
"""


def run(folder: Path, reason: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(SKIPS, "utf-8")
    (folder / "test_it.py").write_text(TEST.replace("REASON", repr(reason)), "utf-8")
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", folder, folder)
    env = {"CI": ci, "PYTHONPATH": str(Path(__file__).parent)}
    return execute(sys.executable, "-m", "pytest", *options, cwd=folder, env=env)


@pytest.mark.skipif(sys.platform != "linux", reason="CI is strict on Linux only")
def test_a_missing_tool_fails_in_ci_unless_it_is_on_the_list(tmp_path: Path) -> None:
    missing = "promtool is not installed (Debian's prometheus)"
    refused = run(tmp_path, missing, "true")
    assert refused.returncode == 1
    assert f"skipped, which tests/tools.py does not allow in CI: {missing}" in refused.stdout
    assert run(tmp_path, missing, "").returncode == 0
    assert run(tmp_path, "docker is not installed", "true").returncode == 0
