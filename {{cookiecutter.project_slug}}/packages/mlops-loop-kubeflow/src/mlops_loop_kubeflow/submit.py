"""Runs of the pipeline in a cluster: now, or by a schedule."""

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import requests
from kfp import Client
from kfp_server_api import ApiException
from mlops_loop.base.errors import Failure, redacted
from mlops_loop.base.project import current_project
from urllib3.exceptions import HTTPError

from mlops_loop_kubeflow.compile import compile_pipeline

PAGE = 100


def submit(
    endpoint: str, namespace: str | None, image: str | None, cron: str | None, cached: bool
) -> None:
    """Compile the pipeline and run it; with `cron` it replaces the schedule that there was."""
    where = redacted(endpoint)
    with TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        used = compile_pipeline(package, image)
        if used.endswith(":unreleased"):
            raise Failure("which image? --image, or kubeflow.image in params.yaml, names it")
        try:
            client = connect(endpoint, namespace)
            run_now = schedule if cron else start
            print(run_now(client, package, namespace, cron, None if cached else False))
        except ApiException as error:
            raise Failure(f"Kubeflow at {where} says {error.status} {error.reason}") from None
        except HTTPError as error:
            raise Failure(f"Kubeflow at {where} does not answer: {type(error).__name__}") from None


def connect(endpoint: str, namespace: str | None) -> Client:
    token = os.environ.get("KFP_EXISTING_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    where = redacted(endpoint)
    try:  # kfp itself would try for half a minute
        url = f"{endpoint.rstrip('/')}/apis/v2beta1/healthz"
        answer = requests.get(url, headers=headers, timeout=30)
    except requests.RequestException as error:
        raise Failure(f"Kubeflow at {where} does not answer: {type(error).__name__}") from None
    if not answer.ok:
        raise Failure(f"Kubeflow at {where} says {answer.status_code} {answer.reason}")
    with warnings.catch_warnings(action="ignore"):
        return Client(host=endpoint, namespace=namespace or "kubeflow", existing_token=token)


def start(
    client: Client, package: Path, namespace: str | None, _: str | None, caching: bool | None
) -> str:
    name = current_project().name
    run = client.create_run_from_pipeline_package(
        str(package), experiment_name=name, namespace=namespace, enable_caching=caching
    )
    return f"run {run.run_id} is submitted"


def schedule(
    client: Client, package: Path, namespace: str | None, cron: str | None, caching: bool | None
) -> str:
    """Make the schedule, then delete those of the same name that it replaces."""
    name = current_project().name
    experiment = client.create_experiment(name, namespace=namespace).experiment_id
    listed = client.list_recurring_runs(experiment_id=experiment, page_size=PAGE).recurring_runs
    made = client.create_recurring_run(
        experiment,
        name,
        cron_expression=f"0 {cron}",  # Kubeflow's begins with the second
        no_catchup=True,
        pipeline_package_path=str(package),
        enable_caching=caching,
    )
    for old in listed or []:
        if old.display_name == name:
            client.delete_recurring_run(old.recurring_run_id)
    return f"recurring run {made.recurring_run_id} is set to {cron!r}"
