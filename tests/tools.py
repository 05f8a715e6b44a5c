"""Tools that tests need beyond Python packages, and which of them may be missing in CI.

A skipped proof is no proof: with CI=true on Linux, a skip for any other reason is a failure.
"""

import os
import re
import shutil
import sys

import pytest

# Pattern of the reason for a skip -> why CI may do without.
MAY_BE_MISSING = {
    "docker is not installed": "an engine needs rights that not every machine gives; "
    ".ci/run starts one where it can",
    "act is not installed": "neither Debian nor PyPI has it; GitHub runs the workflows itself",
    "act runs them": "as a step of ci.yml, in tests/test_workflows.py",
    "cosign is not installed": "Debian has it from version 13 on; .ci/run fetches it where it can",
    "the vulnerability service cannot be reached": "that is seen refused; it answers elsewhere",
    "gcloud is not installed": "neither Debian nor PyPI has it",
    r".* cannot be pulled": "no registry is within reach, and there is no stand-in",
    "the CRDs are missing": "they are no part of this repository",
    "TFDV is not asked for": "it installs 2.5 GB: `TFDV=1 pytest tests/test_formats.py`",
    "no Kubernetes API server": "there is no package of one: .ci/run builds it where it can",
}
# Whether GitHub's workflows can run here.
ACT = bool(shutil.which("act") and os.environ.get("ACT_IMAGE"))
STRICT = os.environ.get("CI") == "true" and sys.platform == "linux"


def may_skip(reason: str) -> bool:
    """Return whether a test may be skipped for this reason."""
    return not STRICT or any(re.match(pattern, reason) for pattern in MAY_BE_MISSING)


def need_program(name: str, *packages: str) -> str:
    """Return the path of a program; skip where it is not installed."""
    if path := shutil.which(name):
        return path
    where = f" (Debian's {', '.join(packages)})" if packages else ""
    pytest.skip(f"{name} is not installed{where}")


def fail_unless_allowed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where CI may not do without."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not may_skip(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped, which tests/tools.py does not allow in CI: {reason}"
