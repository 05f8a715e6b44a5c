"""The stages of dvc.yaml: what a step of the Kubeflow pipeline needs, and what identifies it."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from dvc.utils.serialize import parse_yaml
from mlops_loop.base.code_hash import names
from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BUNDLE, DVC, PARAMS
from pydantic import BaseModel, JsonValue, model_validator

Paths = list[str | dict[str, dict[str, JsonValue] | None]]  # each may be a mapping to its options
Values = dict[str, JsonValue]  # by their key with dots
TEMPLATING = re.compile(r"(?<!\\)\$\{")
WRITE_OUT = "write its stages out"
REFUSED = {
    "foreach": WRITE_OUT,
    "matrix": WRITE_OUT,
    "wdir": "write its paths from the project's folder on",
    "frozen": "`uv run dvc unfreeze` it",
}


class Stage(BaseModel, extra="forbid"):
    cmd: str | list[str]
    deps: Paths = []
    params: list[str | dict[str, list[str] | None]] = []
    outs: Paths = []
    metrics: Paths = []
    plots: Paths = []
    desc: str | None = None
    meta: JsonValue = None
    always_changed: bool = False

    @model_validator(mode="before")
    @classmethod
    def stands_for_itself(cls, stage: JsonValue) -> JsonValue:
        for key, mend in REFUSED.items():
            if isinstance(stage, dict) and key in stage:
                raise ValueError(f"it has {key!r}, which makes no Kubeflow step: {mend}")
        if TEMPLATING.search(json.dumps(stage, default=str)):
            raise ValueError("it has '${...}', which makes no Kubeflow step: write the value")
        return stage

    def outputs(self) -> list[str]:
        return names([*self.outs, *self.metrics, *self.plots])

    def uncached(self) -> list[str]:
        """Return the outputs that git keeps, and not DVC."""
        listed = [one for one in (*self.outs, *self.metrics, *self.plots) if isinstance(one, dict)]
        options = [pair for one in listed for pair in one.items()]
        return [name for name, how in options if how and not how.get("cache", True)]


class Pipeline(BaseModel):
    stages: dict[str, Stage]


class Artifact(NamedTuple):
    """A file that Kubeflow shows, by the kind that its page knows."""

    kind: str
    path: str


def load_stages() -> dict[str, Stage]:
    """Return the stages of dvc.yaml, each after those that it depends on."""
    stages = read_yaml(DVC, Pipeline).stages
    graph = {name: upstream(stage, stages) for name, stage in stages.items()}
    try:
        return {name: stages[name] for name in TopologicalSorter(graph).static_order()}
    except CycleError as error:
        raise Failure(f"{DVC}: its stages need each other: {' -> '.join(error.args[1])}") from None


def upstream(stage: Stage, stages: Mapping[str, Stage]) -> list[str]:
    """Return the stages whose outputs a stage reads."""
    read = names(stage.deps)
    return [
        name
        for name, other in stages.items()
        if any(overlap(dep, out) for dep in read for out in other.outputs())
    ]


def overlap(dep: str, out: str) -> bool:
    """Return whether one is the other, or lies in it."""
    one, other = Path(dep), Path(out)
    return one.is_relative_to(other) or other.is_relative_to(one)


def produced(stage: Stage, stages: Mapping[str, Stage]) -> list[str]:
    """Return the dependencies that are outputs of other stages."""
    outs = [out for other in stages.values() for out in other.outputs()]
    return [dep for dep in names(stage.deps) if any(overlap(dep, out) for out in outs)]


def code_hash(stage: Stage, stages: Mapping[str, Stage]) -> str:
    """Return the SHA-256 of what the image must hold for a stage: its definition and its files.

    Kubeflow takes a step for done by its command: with this hash in it, also where other code is in
    an image with the same tag.
    """
    made = set(produced(stage, stages))
    files = {dep: content_hash(Path(dep)) for dep in names(stage.deps) if dep not in made}
    others = {file: values(file, keys) for file, keys in tracked(stage) if file != str(PARAMS)}
    known = {"stage": stage.model_dump(), "files": files, "params": others}
    return sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file or folder; of what DVC tracks, that of its .dvc file."""
    if "://" in path.as_posix().replace(":/", "://"):
        return ""  # it is elsewhere
    tracked_by = path.with_name(f"{path.name}.dvc")
    path = tracked_by if tracked_by.is_file() else path
    if not path.exists():
        raise Failure(f"{path} is missing, which {DVC} names: does .dockerignore leave it out?")
    if path.is_file():
        return sha256(path.read_bytes()).hexdigest()
    found = sorted(file for file in path.rglob("*") if file.is_file())
    parts = [(file.as_posix(), content_hash(file)) for file in found if file.suffix != ".pyc"]
    return sha256(json.dumps(parts).encode()).hexdigest()


def stage_params(stage: Stage) -> Values:
    """Return the values of params.yaml that a stage depends on."""
    return {
        key: value
        for file, keys in tracked(stage)
        if file == str(PARAMS)
        for key, value in values(file, keys).items()
    }


def tracked(stage: Stage) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each file with parameters, and the keys of it; None for all of them."""
    for one in stage.params:
        yield from ((str(PARAMS), [one]),) if isinstance(one, str) else one.items()


def values(file: str, keys: list[str] | None) -> Values:
    path = Path(file)
    if path.suffix == ".py":
        return {"": content_hash(path)}
    text = path.read_text(encoding="utf-8")
    content = tomllib.loads(text) if path.suffix == ".toml" else parse_yaml(text, file)
    return {key: value_at(content, key, file) for key in (content if keys is None else keys)}


def value_at(content: JsonValue, key: str, file: str) -> JsonValue:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            raise Failure(f"{file} has no key {key!r}, which a stage of {DVC} depends on")
        content = content[part]
    return content


def run_key(stages: Mapping[str, Stage]) -> str:
    """Return what identifies a run: the code and parameters of all its stages."""
    known = {name: [code_hash(one, stages), stage_params(one)] for name, one in stages.items()}
    return sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def artifacts(stage: Stage) -> dict[str, Artifact]:
    """Return what Kubeflow shows of a stage, by name: metrics, pages and the model card."""
    found = [Artifact("Metrics", path) for path in names(stage.metrics)]
    kinds = {".html": "HTML", ".md": "Markdown"}
    outs = [*names(stage.outs), *names(stage.plots)]
    if BUNDLE.as_posix() in outs:
        outs.append((BUNDLE / "card.html").as_posix())
    found += [Artifact(kinds[Path(out).suffix], out) for out in outs if Path(out).suffix in kinds]
    named: dict[str, Artifact] = {}
    for one in found:
        name = identifier(Path(one.path).stem)
        named[identifier(one.path) if name in named else name] = one
    return named


def identifier(text: str) -> str:
    return re.sub(r"\W", "_", text.lower(), flags=re.ASCII)
