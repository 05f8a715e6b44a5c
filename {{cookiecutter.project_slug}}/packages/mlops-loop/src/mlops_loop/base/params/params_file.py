"""The whole of params.yaml.

Every key but `ingest.source` has a default, so that a file of an earlier version goes on working.
"""

from pydantic import Field

from mlops_loop.base.config import read_yaml
from mlops_loop.base.files import PARAMS
from mlops_loop.base.params.evaluate import EvaluateParams
from mlops_loop.base.params.export import ExportParams
from mlops_loop.base.params.gates import Gates
from mlops_loop.base.params.ingest import IngestParams
from mlops_loop.base.params.monitor import Monitor
from mlops_loop.base.params.retrain import Retrain
from mlops_loop.base.params.section import Section
from mlops_loop.base.params.split import SplitParams
from mlops_loop.base.params.train import TrainParams


class Params(Section):
    ingest: IngestParams
    split: SplitParams = Field(default_factory=SplitParams)
    train: TrainParams = Field(default_factory=TrainParams)
    evaluate: EvaluateParams = Field(default_factory=EvaluateParams)
    export: ExportParams = Field(default_factory=ExportParams)
    gates: Gates = Field(default_factory=Gates)
    monitor: Monitor = Field(default_factory=Monitor)
    retrain: Retrain = Field(default_factory=Retrain)


def load_params() -> Params:
    return read_yaml(PARAMS, Params)
