"""What the API, files and the prediction log share: rows as JSON has them, tasks, limits."""

import re
from collections.abc import Mapping
from typing import Literal

Value = str | int | float | bool | None  # None is a missing value
Row = Mapping[str, Value]
Task = Literal["binary-classification", "multiclass-classification", "regression"]
MAX_ROWS = 1000  # in one request
ODD_NAME = re.compile(r'[\\"\x00-\x1f]')  # no name of a field in msgspec
