"""What a pod runs: one stage, between a pull of its dependencies and a push of its outputs."""

import json
from pathlib import Path
from shutil import copyfile

from dvc.scm import NoSCM
from dvc.utils.serialize import load_yaml, parse_yaml
from mlops_loop.base import files
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import DVC, PARAMS
from mlops_loop.base.pipeline import reproduce
from mlops_loop.tracking.params import flat
from pydantic import BaseModel, Field, JsonValue, ValidationError

from mlops_loop_kubeflow.remote import (
    Entry,
    cached_pipeline,
    dvc,
    open_repo,
    publish,
    read_lock,
    remote_name,
    write_lock,
)
from mlops_loop_kubeflow.stages import Stage, Values, artifacts, code_hash, load_stages, produced

HANDED_ON = "entry"  # the output of a step: its part of dvc.lock


class Parameter(BaseModel):
    file: Path = Field(alias="outputFile")


class Runtime(BaseModel, extra="allow"):
    """An artifact: its name, type and place, as Kubeflow wants them back."""

    metadata: dict[str, float] = {}


class Artifacts(BaseModel):
    artifacts: list[Runtime]


class Inputs(BaseModel):
    values: dict[str, str] = Field({}, alias="parameterValues")


class Outputs(BaseModel):
    parameters: dict[str, Parameter] = {}
    artifacts: dict[str, Artifacts] = {}
    file: Path = Field(alias="outputFile")


class ExecutorInput(BaseModel):
    """What Kubeflow puts in the place of {{$}}."""

    inputs: Inputs = Inputs()
    outputs: Outputs

    def entries(self) -> dict[str, Entry]:
        """Return what the steps before have handed on: their parts of dvc.lock."""
        found: dict[str, Entry] = {}
        for text in self.inputs.values.values():
            found |= json.loads(text)
        return found


def parse_input(text: str) -> ExecutorInput:
    try:
        return ExecutorInput.model_validate_json(text)
    except ValidationError:
        raise Failure("--executor-input is what Kubeflow gives a step, and this is not") from None


def run_step(name: str, code: str, params: str, given: str, places: dict[str, Path]) -> None:
    """Run a stage as a step; nothing is handed on unless all of it has reached the remote."""
    executor = parse_input(given)
    if not isinstance(open_repo().scm, NoSCM):
        raise Failure(f"`step` changes {DVC} and {PARAMS}: it is for the pipeline image alone")
    stages = load_stages()
    stage = stages.get(name)
    if stage is None or code_hash(stage, stages) != code:
        other = f"this image has other code for the stage {name!r} than the pipeline"
        raise Failure(f"{other}: build and push the image, then compile and submit again")
    set_params(parse_yaml(params, "--params"))
    files.write_text(DVC, cached_pipeline())
    write_lock(executor.entries())
    if needed := [*produced(stage, stages), *tracked_files(stage)]:
        dvc(f"what {name} needs was not pulled", "pull", *remote_name(), *needed)
    reproduce("--single-item", "--force", name)
    dvc(f"what {name} made was not pushed", "push", *remote_name(), name)
    entry = read_lock()[name]
    hand_on(stage, {name: entry}, executor.outputs, places)


def set_params(given: Values) -> None:
    """Give params.yaml the values that the pipeline was compiled with: they need no new image."""

    def change(content: dict[str, JsonValue]) -> None:
        for key, value in given.items():
            *parents, last = key.split(".")
            section = content
            for parent in parents:
                inner = section[parent]
                if not isinstance(inner, dict):
                    raise Failure(f"{PARAMS}: {parent} is no section")
                section = inner
            section[last] = value

    files.write_text(PARAMS, edited(PARAMS, change))


def tracked_files(stage: Stage) -> list[str]:
    """Return the dependencies that a .dvc file stands for."""
    paths = [dep if isinstance(dep, str) else next(iter(dep)) for dep in stage.deps]
    return [path for path in paths if Path(f"{path}.dvc").is_file()]


def hand_on(
    stage: Stage, entries: dict[str, Entry], outputs: Outputs, places: dict[str, Path]
) -> None:
    """Give Kubeflow the step's part of dvc.lock, and what its page shows."""
    for name, artifact in artifacts(stage).items():
        if name not in places:
            continue
        places[name].parent.mkdir(parents=True, exist_ok=True)
        copyfile(artifact.path, places[name])
        if artifact.kind == "Metrics":
            numbers = flat(load_yaml(artifact.path))
            outputs.artifacts[name].artifacts[0].metadata = {
                key: value for key, value in numbers.items() if isinstance(value, int | float)
            }
    shown = {name: found.model_dump() for name, found in outputs.artifacts.items()}
    files.write_json(outputs.file, {"artifacts": shown})
    files.write_text(outputs.parameters[HANDED_ON].file, json.dumps(entries))


def publish_run(key: str, given: str) -> None:
    """The last step: keep the run's dvc.lock where `fetch` finds it."""
    publish(key, parse_input(given).entries())
