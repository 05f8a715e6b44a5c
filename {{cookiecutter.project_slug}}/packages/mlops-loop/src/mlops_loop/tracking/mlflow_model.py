"""The model as MLflow loads and serves it: code in the logged model, never a pickle.

It takes the contract's inputs, derives the features itself, and returns scores. MLflow runs this
file on its own, see "models from code" in its documentation.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from mlops_loop.base.config import read_yaml
from mlops_loop.base.project import Project, use
from mlops_loop.contract.schema import Schema
from mlops_loop.data.derived import check_contract
from mlops_loop.scoring.skops_model import load, scores


class ContractModel(PythonModel):  # type: ignore[misc]
    """Its artifacts are `model` (skops) and `schema`; its configuration is the project."""

    def load_context(self, context: PythonModelContext) -> None:
        use(Project(**context.model_config["project"]))
        self.schema = read_yaml(Path(context.artifacts["schema"]), Schema)
        self.model = load(Path(context.artifacts["model"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 (MLflow passes it)
        model_input: pd.DataFrame,
    ) -> pd.DataFrame:
        """Return the probability of each class, or the value, of each row.

        Raises ValueError, which names the first row and column that breaks the contract.
        """
        given = model_input.reindex(columns=list(self.schema.inputs))
        table = pa.Table.from_pandas(given, preserve_index=False)
        typed, reasons = check_contract(table, self.schema, self.schema.inputs)
        for place in (reasons != "").nonzero()[0]:
            raise ValueError(f"row {model_input.index[place]}: {reasons[place]}")
        found = scores(self.model, typed.to_pandas(), self.schema)
        names = self.schema.classes or [self.schema.prediction]
        return pd.DataFrame(found, columns=names, index=model_input.index)


set_model(ContractModel())
