"""The verbs `kubeflow ...`. A verb imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer
from mlops_loop.cli.groups import GROUPS, verb
from typer import Argument, Option

VERBS = typer.Typer(help="The pipeline of dvc.yaml on Kubeflow Pipelines.")
GROUPS["kubeflow"] = VERBS

Image = Annotated[
    str | None,
    Option(envvar="KUBEFLOW_IMAGE", help="Of the Dockerfile's target `pipeline`, in a registry."),
]
Given = Annotated[str, Option(help="What Kubeflow puts in the place of {{$}}.")]


@verb("kubeflow compile build/pipeline.yaml --image registry.example.com/pipeline:1")
def compile_(
    output: Annotated[Path, Argument(help="A .yaml file.")] = Path("build/pipeline.yaml"),
    image: Image = None,
) -> None:
    """Write the stages of dvc.yaml as a KFP v2 pipeline."""
    if output.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"{output} must end with .yaml")
    from mlops_loop_kubeflow.compile import compile_pipeline

    used = compile_pipeline(output, image)
    print(f"{output}: its steps run {used}")


@verb("kubeflow submit --endpoint https://kubeflow.example.com/pipeline --cron '43 6 * * *'")
def submit(
    endpoint: Annotated[
        str, Option(envvar=["KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT"], help="URL of the KFP API.")
    ],
    namespace: Annotated[str | None, Option(envvar="KFP_NAMESPACE")] = None,
    image: Image = None,
    cron: Annotated[str | None, Option(help="A recurring run instead, in UTC.")] = None,
    cache: Annotated[bool, Option("--cache/--no-cache", help="Skip what has run.")] = True,
) -> None:
    """Compile the pipeline and run it. Where a bearer token is needed: $KFP_EXISTING_TOKEN."""
    if not endpoint.startswith(("http://", "https://")):
        raise typer.BadParameter(f"--endpoint {endpoint!r} is no URL: https://HOST/pipeline")
    if cron and len(cron.split()) != 5:
        raise typer.BadParameter(f"--cron {cron!r} must have five fields, such as '43 6 * * *'")
    from mlops_loop_kubeflow.submit import submit

    submit(endpoint, namespace, image, cron, cache)


@verb("kubeflow fetch")
def fetch() -> None:
    """Write dvc.lock, and what git keeps, as a run of this code and these parameters left them."""
    from mlops_loop_kubeflow.remote import fetch

    fetch()


@verb("kubeflow step train --code 3f0c --params '{}' --executor-input '{}'")
def step(
    name: Annotated[str, Argument(help="A stage of dvc.yaml.")],
    code: Annotated[str, Option(help="Hash of the code that the pipeline was compiled with.")],
    params: Annotated[str, Option(help="The stage's values of params.yaml, as YAML.")],
    executor_input: Given,
    artifact: Annotated[list[str] | None, Option(help="name=path of a file to show.")] = None,
) -> None:
    """Run one stage in a pod: pull what it needs, push what it made."""
    from mlops_loop_kubeflow.step import run_step

    places = {one: Path(path) for one, _, path in (text.partition("=") for text in artifact or [])}
    run_step(name, code, params, executor_input, places)


@verb("kubeflow publish 3f0c --executor-input '{}'")
def publish(
    key: Annotated[str, Argument(help="Of the run's code and parameters.")], executor_input: Given
) -> None:
    """Keep the dvc.lock of a run in the DVC remote, for `fetch`: the last step in a cluster."""
    from mlops_loop_kubeflow.step import publish_run

    publish_run(key, executor_input)
