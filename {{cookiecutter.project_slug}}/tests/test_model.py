"""The pipeline of model.py: it learns, it is repeatable, and its search space fits it."""

import numpy as np
import optuna
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error
from sklearn.pipeline import Pipeline

from mlops_loop.testing import Sample

from {{ cookiecutter.__package_name }}.model import build, search_space


def fit(sample: Sample, rows: int) -> Pipeline:
    """Fit a new pipeline on some rows of the training window."""
    table = sample.train.head(rows)
    return build(sample.schema, sample.params.train).fit(sample.inputs(table), sample.target(table))


def test_it_has_learned_something(sample: Sample) -> None:
    """It beats a constant on its training rows. The gates compare it on later rows."""
    truth = sample.train[sample.schema.target]
    scores = sample.scores(sample.train)
    if classes := sample.schema.classes:
        shares = truth.value_counts(normalize=True)[classes].to_numpy()
        constant = np.tile(shares, (len(truth), 1))
        assert log_loss(truth, scores, labels=classes) < log_loss(truth, constant, labels=classes)
        return
    median = np.full(len(truth), truth.median())
    mean = np.full(len(truth), truth.mean())
    closer = mean_absolute_error(truth, scores) < mean_absolute_error(truth, median)
    assert closer or mean_squared_error(truth, scores) < mean_squared_error(truth, mean)


def test_equal_rows_give_an_equal_model(sample: Sample) -> None:
    table = sample.inputs(sample.test)
    first = fit(sample, 2000).predict(table)
    second = fit(sample, 2000).predict(table)
    assert (first == second).all()


def test_missing_values_and_unknown_categories_are_scored(sample: Sample) -> None:
    table = sample.test.head(50)
    for name, column in sample.schema.features.items():
        if column.nullable:
            table = table.assign(**{name: None if column.categories else np.nan})
        if column.allow_unknown:
            table = table.assign(**{name: "never seen"})
    assert np.isfinite(sample.scores(table)).all()


def test_the_search_tries_what_the_model_takes(sample: Sample) -> None:
    params = sample.params.train
    found = search_space(optuna.create_study().ask(), params.model)
    estimator = build(sample.schema, params.with_settings(found))[-1]
    assert {name: estimator.get_params()[name] for name in found} == found
