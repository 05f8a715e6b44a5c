"""Skips: with CI=true on Linux, a test that is skipped for another reason than these fails."""

import os
import re
import sys

import pytest

ALLOWED = {  # pattern of the reason -> why CI may do without
    "a regression has no classes": "the other tasks run the test",
    "of a regression every outcome tells something": "the other tasks run the test",
    "the contract ": "the example has no such column; test_infer and test_contract make some",
    "nothing may be missing in this contract": "only in a contract of one's own",
    "needs a feature with categories, and another one": "only in a contract of one's own",
    "deploy/observe is not there": "only beside Docker Compose, which the template's tests have",
    r"the group \w+ is not installed": "the template's tests install these libraries",
    "windows that move need ": "only with a table of one's own",
}
Report = pytest.TestReport | pytest.CollectReport
STRICT = os.environ.get("CI") == "true" and sys.platform == "linux"


def fail_unless_allowed(report: Report) -> Report:
    """Turn a skip into a failure where CI may not do without."""
    if STRICT and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.match(pattern, reason) for pattern in ALLOWED):
            report.outcome = "failed"
            report.longrepr = f"skipped, which skips.py does not allow in CI: {reason}"
    return report
