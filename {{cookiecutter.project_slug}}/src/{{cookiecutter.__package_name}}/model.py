"""The scikit-learn pipeline. Change `build()` to change the model."""

from functools import partial
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from mlops_loop import Failure, Schema, TrainParams

if TYPE_CHECKING:
    import optuna  # a server of a skops model loads this file and has none

# What `train.model` in params.yaml may name; the section of the same name holds the arguments.
CLASSIFIERS = {
    "gradient_boosting": partial(HistGradientBoostingClassifier, early_stopping=False),
    "logistic_regression": LogisticRegression,
}
REGRESSORS = {
    # Minimises what it is evaluated by: squared errors lose to the median where zeros are many.
    "gradient_boosting": partial(
        HistGradientBoostingRegressor, early_stopping=False, loss="absolute_error"
    ),
    "ridge": Ridge,
}
BOOSTED = ("gradient_boosting",)  # learn from missing values
LINEAR = ("logistic_regression", "ridge")  # need numbers of one scale

# Types, beyond those that skops trusts, that a model file may hold. Add only what you reviewed:
# none of them may run code of its own when it is loaded.
TRUSTED_TYPES = ["numpy.dtype", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]


def build(schema: Schema, params: TrainParams) -> Pipeline:
    """Return the unfitted pipeline. Change this first."""
    estimators = CLASSIFIERS if schema.classes else REGRESSORS
    if params.model not in estimators:
        raise Failure(
            f"params.yaml: train.model: {params.model} does not fit the task: "
            f"{schema.task} knows {', '.join(estimators)}"
        )
    estimator = estimators[params.model](**params.settings)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=params.seed)
    return make_pipeline(preprocessing(schema, params.model), estimator)


def preprocessing(schema: Schema, model: str) -> BaseEstimator:
    """Return what turns the contract's features into numbers, as the model of this name needs it.

    Trees get them unscaled: ONNX counts in float32, where a scaled number may change its branch.
    """
    known = [list(schema.columns[name].categories or ()) for name in schema.categorical]
    numbers: Any = SimpleImputer(keep_empty_features=True, strategy="median")
    categories: Any = OrdinalEncoder(
        categories=known, handle_unknown="use_encoded_value", unknown_value=-1
    )
    if model in BOOSTED:
        numbers = "passthrough"
    if model in LINEAR:
        numbers = make_pipeline(numbers, StandardScaler())
        categories = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
    columns = [("numbers", numbers, schema.numeric), ("categories", categories, schema.categorical)]
    return ColumnTransformer([column for column in columns if column[2]])


def search_space(trial: "optuna.Trial", name: str) -> dict[str, Any]:
    """Return the parameters that `tune` tries for the model of this name."""
    if name == "gradient_boosting":
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
            "max_iter": trial.suggest_int("max_iter", 30, 300, log=True),
            "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 4, 64, log=True),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 200, log=True),
        }
    if name == "logistic_regression":
        return {"C": trial.suggest_float("C", 0.001, 100, log=True)}
    return {"alpha": trial.suggest_float("alpha", 0.001, 1000, log=True)}
