"""Measured: the rendered project that is measured, and its model with the derived values sent.

The second differs from the first in the contract alone: what `derive` computes there, a client
sends here. The difference of the two is what derived features cost.
"""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlops_loop.base import project
from mlops_loop.base.files import TEST
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.release.smoke_test import run
from mlops_loop.scoring.bundle import open_bundle, write_manifest
from mlops_loop.scoring.self_check import FILE

CHAMPION = Path("build/champion")


def use(package: str) -> str:
    """Make the package's project that of this process and its children; return its name."""
    found = import_module(f"{package}.project").PROJECT
    project.use(found)
    return str(found.name)


def sent(schema: Path) -> dict[str, Any]:
    """Return a contract in which the API takes every feature, and nothing else."""
    contract: dict[str, Any] = yaml.safe_load(schema.read_text(encoding="utf-8"))
    for name, column in contract["columns"].items():
        column.pop("derived", None)
        if column.get("role") == "input":
            column["role"] = "timestamp" if name == contract.get("timestamp") else "ignored"
    return contract


def requests(schema: Schema, count: int) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Return rows of the test window that keep the contract, as JSON and as a table."""
    table = run.sample(tables.read_table(TEST), schema, count)
    features = Schema.model_validate(sent(CHAMPION / "schema.yaml"))
    pairs = zip(tables.as_json(table, schema), tables.as_json(table, features), strict=True)
    return [given | derived for given, derived in pairs], table


def write_sent(folder: Path) -> Path:
    """Write the champion as a bundle that derives nothing; return its folder."""
    champion = open_bundle(CHAMPION)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CHAMPION, folder)
    for name in ("promotion.json", FILE):
        (folder / name).unlink()
    contract = sent(folder / "schema.yaml")
    (folder / "schema.yaml").write_text(yaml.safe_dump(contract, sort_keys=False), "utf-8")
    (row,), _ = requests(champion.schema, 1)
    example = {name: row[name] for name in Schema.model_validate(contract).inputs}
    write_manifest(folder, champion.manifest.model_copy(update={"example": example}))
    return folder
