"""The section `kubeflow` of params.yaml: where steps run, and with what."""

from typing import Annotated

from mlops_loop.base.config import read_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import DVC, PARAMS
from mlops_loop.base.params import Count, Section
from pydantic import BaseModel, Field

Cpu = Annotated[str, Field(pattern=r"^\d+(\.\d+|m)?$", coerce_numbers_to_str=True)]
Memory = Annotated[str, Field(pattern=r"^\d+(\.\d+)?([EPTGMK]i?)?$", coerce_numbers_to_str=True)]
# What MLflow and object storage ask for; each is taken from the Secret if it is there.
KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
)


class Accelerator(Section):
    type: str = Field(min_length=1)  # nvidia.com/gpu
    count: Count = 1


class Resources(Section):
    """What a step asks the cluster for."""

    cpu: Cpu = "1"
    memory: Memory = "4Gi"
    accelerator: Accelerator | None = None
    retries: int = Field(2, ge=0)
    cache: bool = True  # false: the stage runs each time, such as an ingest of new rows


class KubeflowParams(Resources):
    """For all steps, and for those of single stages."""

    image: str | None = None
    secret: str = "pipeline"  # noqa: S105 - its name
    secret_keys: tuple[str, ...] = KEYS
    env: dict[str, str] = Field({})
    stages: dict[str, Resources] = Field({})

    def of(self, stage: str) -> Resources:
        """Return a stage's own settings, and those for all where it has none."""
        common = {name: getattr(self, name) for name in Resources.model_fields}
        own = self.stages.get(stage)
        given = own.model_fields_set if own else set()
        return Resources(**common | {name: getattr(own, name) for name in given})


class File(BaseModel):
    kubeflow: KubeflowParams = KubeflowParams()


def load_kubeflow_params(stages: dict[str, object]) -> KubeflowParams:
    found = read_yaml(PARAMS, File).kubeflow
    if unknown := set(found.stages) - set(stages):
        raise Failure(f"{PARAMS}: kubeflow.stages.{min(unknown)}: {DVC} has no such stage")
    return found
