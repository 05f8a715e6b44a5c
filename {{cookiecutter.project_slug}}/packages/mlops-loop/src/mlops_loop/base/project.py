"""The project that uses the loop: its name, and the functions that it plugs in.

Functions are named as "package.module:function" and loaded when they are needed, so that `--help`
and a server import nothing that they do not run."""

import inspect
import json
import os
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mlops_loop.base.code_hash import source_hash
from mlops_loop.base.errors import Failure

VARIABLE = "MLOPS_LOOP_PROJECT"  # holds the project, for the processes that this one starts
SIGNATURES = {  # what each function is called with
    "reader": ("schema", "params"),
    "derive": ("columns",),
    "model": ("schema", "params"),
    "candidates": ("schema",),
    "search_space": ("trial", "name"),
    "metrics": ("truth", "scores", "schema"),
    "gates": ("candidate",),
}


@dataclass(frozen=True)
class Project:
    """What a project plugs into the loop; all but the model is optional."""

    name: str
    model: str  # build(schema, params) returns the unfitted scikit-learn pipeline
    reader: str | None = None  # read(schema, params) yields Arrow tables of the source's rows
    derive: str | None = None  # derive(columns) gets NumPy columns, and returns new ones
    candidates: str | None = None  # candidates(schema) returns what `train.model: auto` compares
    search_space: str | None = None  # search_space(trial, name) returns what `tune` tries
    trusted_types: str | None = None  # types that a model file may hold, beyond those of skops
    # By name: metric(truth, scores, schema) returns a number, gate(candidate) GateResults.
    metrics: dict[str, str] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)


def use(project: Project) -> None:
    """Make a project the current one, for this process and those that it starts."""
    os.environ[VARIABLE] = json.dumps(asdict(project))


def current_project() -> Project:
    """Return the project whose console script runs. Raises Failure if there is none."""
    if not (text := os.environ.get(VARIABLE)):
        raise Failure("no project: start the loop by the project's own command, `uv run <slug>`")
    return parse(text)


@cache
def parse(text: str) -> Project:
    return Project(**json.loads(text))


def command() -> list[str]:
    """Return what starts this project's console script, in the environment of this process."""
    name = current_project().name
    script = Path(sysconfig.get_path("scripts")) / (f"{name}.exe" if os.name == "nt" else name)
    if not script.is_file():
        raise Failure(f"{script} is missing: install the project in this environment (uv sync)")
    return [str(script)]


def load(plugin: str) -> Callable[..., Any] | None:
    """Return the function that the current project plugs in as `plugin`; None if it names none."""
    target = getattr(current_project(), plugin)
    return function(plugin, target, SIGNATURES[plugin]) if target else None


def load_all(plugin: Literal["metrics", "gates"]) -> dict[str, Callable[..., Any]]:
    """Return the functions that the current project plugs in under names of their own."""
    named: dict[str, str] = getattr(current_project(), plugin)
    signature = SIGNATURES[plugin]
    return {name: function(f"{plugin}: {name}", at, signature) for name, at in named.items()}


def required(plugin: str) -> Callable[..., Any]:
    """Return the function that the current project must plug in as `plugin`."""
    if found := load(plugin):
        return found
    raise Failure(f'project.py: {plugin} is missing: name it as "module:function"')


def trusted_types() -> list[str]:
    """Return the types that the project trusts in a model file."""
    target = current_project().trusted_types
    return list(attribute("trusted_types", target)) if target else []


@cache
def function(plugin: str, target: str, parameters: tuple[str, ...]) -> Callable[..., Any]:
    """Return the function at `target`. Raises Failure if it does not take these parameters."""
    found = attribute(plugin, target)
    wanted = f"{target.rpartition(':')[2]}({', '.join(parameters)})"
    if not callable(found):
        raise Failure(f"project.py: {plugin}: {target} is no function: define {wanted}")
    takes = inspect.signature(found)
    try:
        takes.bind(*parameters)
    except TypeError:
        raise Failure(f"project.py: {plugin}: {target}{takes} must take {wanted}") from None
    return found  # type: ignore[no-any-return]


def attribute(plugin: str, target: str) -> Any:
    """Return what "package.module:name" names."""
    module, _, name = target.partition(":")
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise  # one that the module itself imports
        raise Failure(f"project.py: {plugin}: there is no module {module!r}") from None
    if not hasattr(loaded, name):
        raise Failure(f"project.py: {plugin}: {module} has no {name!r}")
    return getattr(loaded, name)


def fingerprint(plugin: str) -> str | None:
    """Return the hash of the module of a plugged-in function."""
    target = getattr(current_project(), plugin)
    spec = find_spec(target.partition(":")[0]) if target else None
    return source_hash(Path(spec.origin)) if spec and spec.origin else None


def package_folder() -> Path:
    """Return the folder of the project's own package."""
    spec = find_spec(current_project().model.partition(".")[0])
    if spec is None or not spec.origin:
        raise Failure(f"the package of {current_project().model} is not installed: uv sync")
    return Path(spec.origin).resolve().parent
