"""Unlogged: this project's server with a prediction log that forgets, to say what the log costs.

python unlogged.py PACKAGE serve --port 8000
"""

import importlib
import sys
from typing import Any

package = sys.argv.pop(1)


async def forget(*_: Any) -> None:
    """Take the place of what makes a request's predictions durable."""


writer = importlib.import_module("mlops_loop.prediction_log.writing.writer").Writer
if not callable(getattr(writer, "write", None)):
    raise SystemExit("writing/writer.py has no `Writer.write`: change benchmarks/apps/unlogged.py")
writer.write = forget
importlib.import_module(f"{package}.project").main()
