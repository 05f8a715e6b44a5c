"""The parameters behind a model, as runs and `trace` name them: {"train.seed": 1}."""

from collections.abc import Mapping

from pydantic import JsonValue

from mlops_loop.scoring.bundle import Estimator


def fitted_params(
    params: Mapping[str, dict[str, JsonValue]], estimator: Estimator
) -> dict[str, JsonValue]:
    """Return sections of params.yaml, with the fitted estimator for those it might name."""
    train: dict[str, JsonValue] = {name: params["train"][name] for name in ("seed", "max_rows")}
    fitted: dict[str, JsonValue] = {"name": estimator.name, **estimator.params}
    return flat({**params, "train": train, "estimator": fitted})


def flat(nested: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Return {"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, JsonValue] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
