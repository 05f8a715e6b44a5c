from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import SplitParams, load_params
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import data_checks, split, tables, validate

from .conftest import change

HALF = slice(None, None, 2)  # more rows than a contract will tolerate
AT_RANDOM = SplitParams(
    train_end=None, validation_end=None, train_share=0.6, validation_share=0.2, seed=0
)


def pick(schema: Schema, role: str = "feature", **wanted: object) -> str:
    """Return the first column of a role that is as wanted: True stands for any value."""
    for name, column in schema.used.items():
        facts = [(getattr(column, key), value) for key, value in wanted.items()]
        if (column.role, column.derived) == (role, False) and all(
            found == value or (value is True and found) for found, value in facts
        ):
            return name
    pytest.skip("the contract has no such column")


def put(table: pd.DataFrame, name: str, value: object) -> pd.DataFrame:
    """Put a value into every other row of a column."""
    values = table[name].astype(object)
    values.iloc[HALF] = value
    return table.assign(**{name: values.infer_objects()})


# Each takes good data and returns it poisoned, the column and the words of the rule that must
# refuse it, the number of rows that break it, and one of the values that must be shown.


def missing_column(table, schema):
    name = list(schema.features)[-1]
    return table.drop(columns=name), name, "to exist", len(table), ""


def wrong_type(table, schema):
    name = pick(schema, type="number")
    texts = table.assign(**{name: table[name].astype(str).where(table[name].notna())})
    return put(texts, name, "many"), name, "of type number", len(table[HALF]), "many"


def out_of_range(table, schema):
    name = pick(schema, type="number", maximum=True)
    value = schema.columns[name].maximum + 1
    return put(table, name, value), name, "between", len(table[HALF]), str(value)


def infinite(table, schema):
    name = pick(schema, type="number")
    rule = "finite" if schema.columns[name].maximum is None else "between"
    return put(table, name, -np.inf), name, rule, len(table[HALF]), "-inf"


def unknown_category(table, schema):
    name = pick(schema, type="category", allow_unknown=False)
    return put(table, name, "?!"), name, "in set", len(table[HALF]), "?!"


def gaps(table, schema):
    return put(table, schema.target, None), schema.target, "not be null", len(table[HALF]), ""


def hardly_a_value(table, schema):
    name = pick(schema, nullable=True)
    return table.assign(**{name: None}), name, "not be null", len(table), ""


def lost_class(table, schema):
    if not schema.classes:
        pytest.skip("a regression has no classes")
    name, lost = schema.target, schema.classes[-1]
    return table[table[name] != lost], name, "every class", (table[name] != lost).sum(), lost


def key_twice(table, schema):
    if not schema.unique:
        pytest.skip("the contract has no key")
    key = str(table[schema.unique[-1]].iloc[0])
    return pd.concat([table, table.head(1)]), ", ".join(schema.unique), "unique", 1, key


def duplicates(table, schema):
    change(files.SCHEMA, max_duplicates=0)
    table = table.drop_duplicates()  # a table of one's own may have some
    twice = pd.concat([table, table])
    return twice, "the table", "duplicated", len(table), str(table[schema.target].iloc[0])


def too_few(table, schema):
    change(files.SCHEMA, min_rows=len(table) + 5)
    return table, "the table", "row count", 5, f"{len(table):,} rows"


def from_the_future(table, schema):
    if (name := schema.timestamp) is None:
        pytest.skip("the contract has no timestamp")
    late = put(table, name, pd.Timestamp("2999-12-31"))
    return late, name, "in the future", len(table[HALF]), "2999-12-31"


def the_target_itself(table, schema):
    change(files.SCHEMA, max_leakage=0.99)
    name = pick(schema, type="category" if schema.classes else "number")
    return table.assign(**{name: table[schema.target]}), name, "not to tell", len(table), "where"


def nearly_the_target(table, schema):
    change(files.SCHEMA, max_leakage=0.99)
    name, target = pick(schema, type="number"), table[schema.target]
    numbers = pd.Series(pd.factorize(target)[0] if schema.classes else target, table.index)
    noise = np.random.default_rng(0).normal(size=len(table)) * numbers.std() / 100
    return table.assign(**{name: numbers + noise}), name, "not to tell", len(table), "where"


def rows_from_training(table, schema):
    change(files.SCHEMA, max_overlap=0)
    windows = split.assign(schema, load_params().split)
    test = np.flatnonzero(windows == 2)
    names = [name for name in (*schema.inputs, schema.target) if name != schema.timestamp]
    known = np.resize(np.flatnonzero(windows == 0), len(test))
    table.loc[test, names] = table.loc[known, names].to_numpy()
    if schema.timestamp:  # whole weeks later, so that what is derived of the time is the same
        week = np.timedelta64(7, "D")
        times = table[schema.timestamp].to_numpy()
        weeks = np.ceil((times[test].min() - times[known]) / week).astype(int)
        table.loc[test, schema.timestamp] = times[known] + weeks * week
    count = len(test) if schema.timestamp else None  # a random split follows the target
    return table, "the table", "training window", count, "for example"


def shifted(table, schema):
    numeric = [name for name in schema.numeric if name in table]
    name = max(numeric, key=lambda name: table[name].nunique(), default=pick(schema))
    change(files.SCHEMA, "columns", name, max_shift=0.2)
    return table.assign(**{name: table[name].dropna().max()}), name, "as before", None, "now"


POISONS = [
    *(missing_column, wrong_type, out_of_range, infinite, unknown_category, gaps, hardly_a_value),
    *(lost_class, key_twice, duplicates, too_few, from_the_future, the_target_itself),
    *(nearly_the_target, rows_from_training, shifted),
]


@pytest.mark.parametrize("poison", POISONS)
def test_bad_data_is_refused(project, poison) -> None:
    accepted = validate.ACCEPTED.read_bytes()
    table, *expected = poison(tables.read_table(files.RAW), load_schema())
    column, rule, count, example = expected
    tables.write_table(files.RAW, table.reset_index(drop=True))
    with pytest.raises(Refusal) as refused:
        validate.main()
    said = [line.partition(f"  {column}: ")[2] for line in str(refused.value).splitlines()]
    (line,) = [line for line in said if rule in line.split(",")[0]]
    assert example in line
    assert count is None or f" {count:,} rows" in line
    assert files.read_json(files.REPORTS / "data/validation.json")["passed"] is False
    assert "http" not in (files.REPORTS / "data/validation.html").read_text(encoding="utf-8")
    assert validate.ACCEPTED.read_bytes() == accepted


def test_good_data_stays_accepted_and_a_shift_is_accepted_on_demand(project) -> None:
    accepted = validate.ACCEPTED.read_bytes()
    validate.main()
    assert validate.ACCEPTED.read_bytes() == accepted
    tables.write_table(files.RAW, shifted(tables.read_table(files.RAW), load_schema())[0])
    with pytest.raises(Refusal, match=r"To accept a shift, delete .*accepted\.json"):
        validate.main()
    validate.ACCEPTED.unlink()
    validate.main()
    assert validate.ACCEPTED.read_bytes() != accepted


def test_what_the_contract_tolerates_is_left_out_of_the_windows(project, capsys) -> None:
    name = pick(load_schema(), type="number")
    table = tables.read_table(files.RAW)
    table.loc[[3, 5], name] = -np.inf
    tables.write_table(files.RAW, table)
    change(files.SCHEMA, "columns", name, mostly=0.9)
    validate.main()
    split.main()
    assert "; 2 left out, as they break schema.yaml" in capsys.readouterr().out
    windows = [tables.read_table(path) for path in split.SPLITS.values()]
    assert sum(map(len, windows)) == len(table) - 2
    if time := load_schema().timestamp:
        ends = [when for window in windows for when in window[time].agg(["min", "max"])]
        assert ends == sorted(ends)


def test_times_split_at_dates_or_shares_and_equal_ones_stay_together() -> None:
    when = pd.Series(pd.date_range("2024-01-01", periods=10).repeat(10).to_numpy())
    windows = split.by_time(when, AT_RANDOM)
    assert np.bincount(windows).tolist() == [60, 20, 20]
    assert pd.Series(windows).groupby(when).nunique().eq(1).all()
    ends = {"train_end": datetime(2024, 1, 2), "validation_end": datetime(2024, 1, 4)}
    windows = split.by_time(when, AT_RANDOM.model_copy(update=ends))
    assert np.bincount(windows).tolist() == [10, 20, 70]
    with pytest.raises(Failure, match="2 different times are too few"):
        split.by_time(when.head(20), AT_RANDOM)


def test_without_time_each_class_has_its_share() -> None:
    classes = pd.Series(["often"] * 1000 + ["rare"] * 10 + ["thrice"] * 3 + ["once"])
    windows = split.at_random(classes, AT_RANDOM)
    found = pd.crosstab(classes, windows).loc[["often", "rare", "thrice", "once"]]
    assert found.to_numpy().tolist() == [[600, 200, 200], [6, 2, 2], [1, 1, 1], [1, 0, 0]]
    # A table that grew: a model of before is not asked about what it learned from.
    more = pd.concat([classes, classes.sample(frac=0.1, random_state=0)])
    assert (split.at_random(more, AT_RANDOM)[: len(classes)] == windows).mean() > 0.95


def test_a_window_that_cannot_be_learnt_from_or_judged_on_is_said(project) -> None:
    first = datetime(2900, 1, 1)
    if time := load_schema().timestamp:
        change(files.PARAMS, "split", train_end=first, validation_end=datetime(2901, 1, 1))
        with pytest.raises(Failure, match="the validation window has 0 rows"):
            split.main()
        first = tables.read_table(files.RAW)[time].max().to_pydatetime()
    change(files.PARAMS, "split", train_end=first, validation_end=datetime(2901, 1, 1))
    with pytest.raises(Failure, match=r"params\.yaml"):
        split.main()


@pytest.mark.parametrize("rows", [20, 60, 480])
def test_a_number_that_orders_the_target_tells_it_at_any_size(rows) -> None:
    random = np.random.default_rng(0)
    place = np.sort(random.choice(rows * 50, rows, replace=False))
    labels = np.where(np.arange(rows) < rows * 0.55, "no", "yes")
    noise = random.normal(size=rows)
    table = pd.DataFrame({"place": place, "noise": noise, "late": labels}).sample(frac=1)
    found = data_checks.leaks(table, ["place", "noise"], "late", False)
    assert found["place"] == 1
    assert found["noise"] < 0.9
    curved = table.assign(late=np.exp(table["place"] / table["place"].max()))
    assert data_checks.leaks(curved, ["place"], "late", True) == {"place": 1}
    # By chance: one positive row of many is the largest in some column.
    lucky = pd.DataFrame({"x": np.arange(rows), "late": ["no"] * (rows - 1) + ["yes"]})
    codes = pd.factorize(lucky["late"])[0]
    assert not data_checks.orders(data_checks.codes(lucky["x"]), codes, False)
