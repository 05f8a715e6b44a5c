"""The scikit-learn pipeline. Change `build()` to change the model."""

from functools import partial
from importlib import import_module
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


def optional(library: str, name: str, **settings: Any) -> BaseEstimator:
    """Return an estimator of a library that has a dependency group of its own."""
    try:
        return getattr(import_module(library), name)(**settings)
    except ModuleNotFoundError:
        raise Failure(f"{library} is not installed: uv sync --group {library}") from None


# Few rows do not overfit small trees that stop when rows held out of them get no better.
SMALL_TREES: dict[str, Any] = {
    "early_stopping": True,
    "learning_rate": 0.05,
    "max_iter": 500,
    "max_leaf_nodes": 8,
    "l2_regularization": 1.0,
    "validation_fraction": 0.2,
}
NO_TREE: dict[str, Any] = {"max_iter": 1, "min_samples_leaf": 10**9}
SIZES: dict[str, Any] = {"learning_rate": 0.1, "max_depth": 6, "n_estimators": 100}
LIGHTGBM = SIZES | {"deterministic": True, "force_row_wise": True, "verbose": -1}
CATBOOST = SIZES | {"allow_writing_files": False, "verbose": False}

# What `train.model` in params.yaml may name; the section of the same name holds the arguments.
CLASSIFIERS = {
    "constant": partial(HistGradientBoostingClassifier, **NO_TREE),  # the share of each class
    "shrunk_logistic_regression": partial(LogisticRegression, C=0.01),
    "logistic_regression": LogisticRegression,
    "small_trees": partial(HistGradientBoostingClassifier, **SMALL_TREES),
    "gradient_boosting": partial(HistGradientBoostingClassifier, early_stopping=False),
    "lightgbm": partial(optional, "lightgbm", "LGBMClassifier", **LIGHTGBM),
    "xgboost": partial(optional, "xgboost", "XGBClassifier", **SIZES),
    "catboost": partial(optional, "catboost", "CatBoostClassifier", **CATBOOST),
}
# Boosted trees minimise what they are evaluated by: squared errors lose to the median where zeros
# are many.
REGRESSORS = {
    "constant": partial(HistGradientBoostingRegressor, loss="absolute_error", **NO_TREE),
    "shrunk_ridge": partial(Ridge, alpha=100.0),
    "ridge": Ridge,
    "small_trees": partial(HistGradientBoostingRegressor, loss="absolute_error", **SMALL_TREES),
    "gradient_boosting": partial(
        HistGradientBoostingRegressor, early_stopping=False, loss="absolute_error"
    ),
    "lightgbm": partial(optional, "lightgbm", "LGBMRegressor", objective="mae", **LIGHTGBM),
    "xgboost": partial(optional, "xgboost", "XGBRegressor", objective="reg:absoluteerror", **SIZES),
    "catboost": partial(optional, "catboost", "CatBoostRegressor", loss_function="MAE", **CATBOOST),
}
# What needs numbers of one scale, and what learns from missing values.
LINEAR = ("logistic_regression", "ridge", "shrunk_logistic_regression", "shrunk_ridge")
BOOSTED = ("catboost", "constant", "gradient_boosting", "lightgbm", "small_trees", "xgboost")

# Types, beyond those that skops trusts, that a model file may hold. Add only what you reviewed:
# none of them may run code of its own when it is loaded.
TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "catboost.core.CatBoostClassifier",
    "catboost.core.CatBoostRegressor",
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRegressor",
]


def candidates(schema: Schema) -> list[str]:
    """Return what `train.model: auto` compares by cross-validation, the simplest first."""
    linear = "logistic_regression" if schema.classes else "ridge"
    return ["constant", f"shrunk_{linear}", linear, "small_trees", "gradient_boosting"]


def build(schema: Schema, params: TrainParams) -> Pipeline:
    """Return the unfitted pipeline. Change this first."""
    estimators = CLASSIFIERS if schema.classes else REGRESSORS
    if params.model not in estimators:
        raise Failure(
            f"params.yaml: train.model: {params.model} does not fit the task: "
            f"{schema.task} knows auto, {', '.join(estimators)}"
        )
    estimator = estimators[params.model](**params.settings)
    if "random_state" in estimator.get_params() or params.model == "catboost":
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
    if name in ("gradient_boosting", "small_trees"):
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
            "max_iter": trial.suggest_int("max_iter", 30, 300, log=True),
            "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 4, 64, log=True),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 200, log=True),
        }
    if name in ("lightgbm", "xgboost", "catboost"):
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
            "max_depth": trial.suggest_int("max_depth", 2, 10),
            "n_estimators": trial.suggest_int("n_estimators", 30, 300, log=True),
        }
    if name.endswith("logistic_regression"):
        return {"C": trial.suggest_float("C", 0.001, 100, log=True)}
    if name.endswith("ridge"):
        return {"alpha": trial.suggest_float("alpha", 0.001, 1000, log=True)}
    return {}
