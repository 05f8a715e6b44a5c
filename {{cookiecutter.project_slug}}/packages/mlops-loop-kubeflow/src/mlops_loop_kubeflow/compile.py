"""dvc.yaml as a KFP v2 pipeline: a step for each stage, and one that keeps the run's dvc.lock."""

from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path

from dvc.utils.serialize import dumps_yaml
from kfp import compiler, dsl, kubernetes
from kfp.dsl.container_component_class import ContainerComponent
from mlops_loop.base import files
from mlops_loop.base.project import current_project

from mlops_loop_kubeflow.params import KubeflowParams, Resources, load_kubeflow_params
from mlops_loop_kubeflow.remote import need_shared_remote
from mlops_loop_kubeflow.stages import (
    Stage,
    artifacts,
    code_hash,
    identifier,
    load_stages,
    run_key,
    stage_params,
    upstream,
)
from mlops_loop_kubeflow.step import HANDED_ON

PUBLISH = "publish-lock"
SMALL = Resources(cpu="250m", memory="1Gi")


def compile_pipeline(output: Path, image: str | None) -> str:
    """Write the pipeline; return the image of its steps."""
    stages = load_stages()
    params = load_kubeflow_params(dict(stages))
    need_shared_remote()
    name = current_project().name
    image = image or params.image or f"{name}-pipeline:unreleased"
    pipeline = dsl.pipeline(name=name)(assemble(stages, params, image))
    with files.writing(output) as tmp_path:
        compiler.Compiler().compile(pipeline, str(tmp_path))
    return image


def assemble(stages: dict[str, Stage], params: KubeflowParams, image: str) -> Callable[[], None]:
    def pipeline() -> None:
        entries: dict[str, object] = {}
        for name, stage in stages.items():
            needed = {before(one): entries[one] for one in upstream(stage, stages)}
            task = step_component(name, stages, image)(**needed)
            entries[name] = task.outputs[HANDED_ON]
            own = params.of(name)
            settle(task, params, own)
            task.set_caching_options(own.cache and not stage.always_changed)
        collected = {before(name): entry for name, entry in entries.items()}
        settle(publish_component(stages, image)(**collected), params, SMALL)

    return pipeline


def before(stage: str) -> str:
    """Return the name of the input that takes what a stage handed on."""
    return f"from_{identifier(stage)}"


def step_component(name: str, stages: dict[str, Stage], image: str) -> ContainerComponent:
    stage = stages[name]
    shown = artifacts(stage)
    inputs = {before(one): str for one in upstream(stage, stages)}
    kinds = {one: dsl.Output[getattr(dsl, shown[one].kind)] for one in shown}
    command = ["kubeflow", "step", name, "--code", code_hash(stage, stages)]
    command += ["--params", str(dumps_yaml(stage_params(stage)))]
    return component(name, image, command, {**inputs, **kinds, HANDED_ON: dsl.OutputPath(str)})


def publish_component(stages: dict[str, Stage], image: str) -> ContainerComponent:
    command = ["kubeflow", "publish", run_key(stages)]
    return component(PUBLISH, image, command, {before(name): str for name in stages})


def component(
    name: str, image: str, command: list[str], types: dict[str, object]
) -> ContainerComponent:
    """Return a component with these inputs and outputs, which are known at run time only."""
    shown = {one for one, type_ in types.items() if type_ is not str and one != HANDED_ON}

    def run(*given: dsl.Artifact) -> dsl.ContainerSpec:
        files = [(one, value) for one, value in zip(types, given, strict=True) if one in shown]
        places = [part for one, file in files for part in ("--artifact", f"{one}={file.path}")]
        given_by_kubeflow = ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
        args = [*places, *given_by_kubeflow]
        return dsl.ContainerSpec(image, [current_project().name, *command], args)

    kind = Parameter.POSITIONAL_OR_KEYWORD
    parameters = [Parameter(one, kind, annotation=type_) for one, type_ in types.items()]
    setattr(run, "__signature__", Signature(parameters))  # noqa: B010 - what inspect looks for
    run.__name__ = name
    made: ContainerComponent = dsl.container_component(run)
    return made


def settle(task: dsl.PipelineTask, params: KubeflowParams, own: Resources) -> None:
    """Give a step its resources, retries and environment."""
    task.set_cpu_request(own.cpu)
    task.set_memory_request(own.memory).set_memory_limit(own.memory)
    task.set_retry(own.retries, backoff_duration="30s", backoff_factor=2)
    if own.accelerator:
        task.set_accelerator_type(own.accelerator.type)
        task.set_accelerator_limit(own.accelerator.count)
    for name, value in params.env.items():
        task.set_env_variable(name, value)
    keys = {key: key for key in params.secret_keys}
    kubernetes.use_secret_as_env(task, params.secret, keys, optional=True)
