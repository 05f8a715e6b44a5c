"""Fitted: the project's pipeline, as each of the other servers loads it.

FITTED names a folder with model.skops and facts.json.
"""

import json
import os
from pathlib import Path
from typing import Any

import skops.io
from sklearn.pipeline import Pipeline

FOLDER = Path(os.environ["FITTED"])
FACTS: dict[str, Any] = json.loads((FOLDER / "facts.json").read_text(encoding="utf-8"))
# The model takes numbers as float32, as the project's contract says.
TYPES = dict.fromkeys(FACTS["numbers"], "float32") | dict.fromkeys(FACTS["categories"], "str")


def load() -> Pipeline:
    return skops.io.load(FOLDER / "model.skops", trusted=FACTS["trusted"])
