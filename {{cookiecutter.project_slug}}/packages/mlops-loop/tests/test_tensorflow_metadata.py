"""The contract as TFX's schema and back, and the statistics, with tensorflow-metadata itself."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mlops_loop.base import files
from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.onboarding import formats

from .conftest import ROOT
from .tasks import ask_for, example_tasks

if not find_spec("tensorflow_metadata"):
    pytest.skip("the group tfmd is not installed", allow_module_level=True)

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

PBTXT, PB = Path("schema.pbtxt"), Path("schema.pb")
# Keys of the table: one that has every key, and values that are hard to write.
ODD = {
    "mlops_loop": "1.0",
    "name": 'a "b"\n: {x}',
    "description": "über – \\ \u0085 'ok'",
    "limits": "line\nline\t\x7f",
    "task": "binary-classification",
    "target": "ziel \U0001f600",
    "positive": "ja",
    "timestamp": "when",
    "unique": ["key", "when"],
    "min_rows": 7,
    "missing": ["", "n. v."],
    **dict.fromkeys(("max_duplicates", "max_overlap", "max_leakage", "max_shift"), 0.125),
    "columns": {
        'a "quoted"\\ name': {"type": "number", "minimum": 0.1, "maximum": 123456789.123},
        "A": {"type": "number", "minimum": -1e300, "unit": "°F", "decimal": ",", "max_shift": 0.5},
        "a": {"type": "integer", "minimum": 0.5, "maximum": 2.0**60 + 256, "nullable": True},
        "mlops_loop.role=1": {"type": "integer", "maximum": 1e300, "mostly": 0.95, "pii": True},
        "b": {"type": "boolean", "nullable": True, "max_null": 0.3, "protected": True},
        "c": {"type": "category", "categories": [" ", "1", "null", "a\nb", "é\U0001f600"]},
        "d": {"type": "category", "categories": ["x"], "allow_unknown": True, "slice": True},
        "e": {"type": "category", "categories": ["x", "y"], "mostly": 0.9, "derived": True},
        "f": {"type": "category", "role": "ignored"},
        "g": {"type": "number", "role": "ignored", "description": "two\nlines"},
        "key": {"type": "id", "role": "id"},
        "when": {"type": "timestamp", "role": "timestamp", "format": "%d.%m.%Y", "nullable": True},
        "s": {"type": "timestamp", "role": "input", "format": "epoch s"},
        "ns": {"type": "timestamp", "role": "ignored", "format": "epoch ns"},
        "x": {"type": "timestamp", "role": "input", "format": "excel"},
        "iso": {"type": "timestamp", "role": "input", "format": "%Y-%m-%dT%H:%M:%S"},
        "ziel \U0001f600": {"type": "category", "role": "target", "categories": ["ja", "nein"]},
    },
}
NUMBER = 'feature { name: "n" type: FLOAT presence { min_fraction: 1 } }\n'
LABEL = 'feature { name: "y" type: INT int_domain { min: 0 max: 1 } not_in_environment: "SERVING" }'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keep(contract: dict[str, Any]) -> Schema:
    files.SCHEMA.write_text(yaml.safe_dump(contract, sort_keys=False), "utf-8")
    return load_schema()


def bring(text: str, **options: Any) -> Schema:
    """Import a schema in text format."""
    PBTXT.write_text(text, "utf-8")
    given = dict.fromkeys(("target", "timestamp", "task")) | {"force": True} | options
    formats.import_(PBTXT, **given)
    return load_schema()


@pytest.mark.parametrize("file", [PBTXT, PB], ids=str)
@pytest.mark.parametrize("own", [*example_tasks(ROOT), "odd"])
def test_a_contract_is_the_same_there_and_back(file, own) -> None:
    for path in (files.SCHEMA, files.PARAMS, files.BEHAVIOUR):
        path.write_text((ROOT / path).read_text("utf-8"), "utf-8")
    if own == "odd":
        keep(ODD)
    elif own:
        ask_for(own)
    before = load_schema()
    formats.export(file, None, "tfmd")
    with pytest.raises(Failure, match="to replace it add --force"):
        formats.import_(file, None, None, None, False)
    files.SCHEMA.unlink()
    formats.import_(file, None, None, None, False)
    after = load_schema()
    assert after == before
    assert list(after.columns) == list(before.columns)


def test_what_other_tools_read(capsys) -> None:
    keep(ODD)
    formats.export(PBTXT, None, "tfmd")
    message = text_format.Parse(PBTXT.read_text("utf-8"), schema_pb2.Schema())
    found = {feature.name: feature for feature in message.feature}
    assert message.dataset_constraints.min_examples_count == 7
    assert list(message.default_environment) == ["TRAINING", "SERVING"]
    absent = {name for name, one in found.items() if "SERVING" in one.not_in_environment}
    assert absent == {"key", "when", "e", "ziel \U0001f600"}
    assert found["f"].lifecycle_stage == schema_pb2.DISABLED
    assert found["b"].HasField("bool_domain")
    assert found["b"].presence.min_fraction == 0.7
    assert (found["a"].int_domain.min, found["a"].int_domain.max) == (1, 2**60 + 256)
    assert list(found["c"].string_domain.value) == ODD["columns"]["c"]["categories"]
    assert found["d"].distribution_constraints.min_domain_mass == 0
    assert found["s"].time_domain.integer_format == schema_pb2.TimeDomain.UNIX_SECONDS
    assert found["when"].time_domain.string_format == "%d.%m.%Y"


def test_a_range_that_was_edited_counts(capsys) -> None:
    keep(ODD)
    formats.export(PBTXT, None, "tfmd")
    text = PBTXT.read_text("utf-8")
    assert "min: 0.1\n" in text
    name = 'a "quoted"\\ name'
    assert bring(text.replace("min: 0.1\n", "min: 0.2\n")).columns[name].minimum == 0.2
    before = files.SCHEMA.read_bytes()
    for old, new in {"max: 123456790.0\n": "max: 5.0\n", 'value: "ja"': 'value: "jo"'}.items():
        assert old in text
        said = "its tags" if old.startswith("max") else "positive"
        with pytest.raises(Failure, match=said):
            bring(text.replace(old, new))
        assert files.SCHEMA.read_bytes() == before


def test_a_schema_that_tfdv_inferred(capsys) -> None:
    text = """
      feature { name: "n" type: FLOAT presence { min_fraction: 1 min_count: 1 }
        shape { dim { size: 1 } } float_domain { max: inf }
        drift_comparator { jensen_shannon_divergence { threshold: 0.01 } } }
      feature { name: "code" type: INT int_domain { min: 3 max: 5 is_categorical: true } }
      feature { name: "town" type: BYTES domain: "towns" presence { min_fraction: 0.5 } }
      feature { name: "when" type: INT time_domain { integer_format: UNIX_MILLISECONDS } }
      feature { name: "text" type: BYTES natural_language_domain {} }
      feature { name: "raw" type: BYTES annotation { tag: "of others" } }
      feature { name: "old" type: INT lifecycle_stage: DEPRECATED }
      feature { name: "yn" type: BYTES bool_domain { true_value: "Y" false_value: "N" } }
      string_domain { name: "towns" value: "Bern" value: "Chur" }
      represent_variable_length_as_ragged: true
    """
    schema = bring(text + LABEL, target="y", timestamp="when")
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "represent_variable_length_as_ragged: left out",
        "n: drift_comparator: left out",
        "text: natural_language_domain: texts of any kind are ignored",
        "raw: tag 'of others': left out",
    ]
    assert said[4] == "ignored, correct what you know better: text, raw, old"
    assert (schema.task, schema.positive, schema.classes) == (
        "binary-classification",
        "1",
        ["0", "1"],
    )
    columns = schema.columns
    assert columns["n"].model_dump(exclude_defaults=True) == {"type": "number"}
    assert columns["code"].categories == ("3", "4", "5")
    assert columns["town"].categories == ("Bern", "Chur")
    assert columns["town"].max_null == 0.5
    assert (columns["when"].role, columns["when"].format) == ("timestamp", "epoch ms")
    assert columns["yn"].categories == ("N", "Y")
    assert bring(text + LABEL, target="y", task="regression").task == "regression"


REFUSED = {
    'sparse_feature { name: "s" }': "'s' is a sparse_feature",
    'weighted_feature { name: "w" }': "'w' is a weighted_feature",
    'feature { name: "v" type: STRUCT struct_domain {} }': "'v' has a struct_domain",
    'feature { name: "v" type: STRUCT }': "'v' is of type STRUCT",
    'feature { name: "v" type: BYTES image_domain {} }': "'v' has a image_domain",
    'feature { name: "v" type: INT value_count { min: 1 } }': "'v' has several values",
    'feature { name: "v" type: FLOAT shape { dim { size: 3 } } }': "'v' has several values",
    'feature { name: "v" type: INT group_presence {} }': "'v' has a group_presence",
    'feature { name: "v" type: FLOAT float_domain { is_embedding: true } }': "'v' is an embedding",
    'feature { name: "v" type: INT int_domain { is_categorical: true } }': "give its domain a min",
    'feature { name: "v" domain: "w" }': "'w', which is not there",
    'feature { name: "v" }': "'v' is of type TYPE_UNKNOWN",
    'feature { name: "n" type: INT }': "'n' is there twice",
    'feature { name: "v" type: INT time_domain { integer_format: UNIX_DAYS } }': "UNIX_DAYS",
    'feature { name: "v" type: INT annotation { tag: "mlops_loop.role=x" } }': "holds no JSON",
    'feature { name: "v" type: INT annotation { tag: "mlops_loop.rule=1" } }': "do not fit",
    "feature {": "is no TensorFlow Metadata schema",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items())
def test_what_a_contract_cannot_say_is_refused_in_a_line(text, said) -> None:
    keep(ODD)
    before = files.SCHEMA.read_bytes()
    with pytest.raises(Failure, match=said) as refused:
        bring(NUMBER + LABEL + text, target="y")
    assert str(refused.value).startswith("schema.pbtxt")
    assert "\n" not in str(refused.value)
    assert files.SCHEMA.read_bytes() == before


def test_what_is_asked_for_must_be_there() -> None:
    for options, said in (
        ({}, "which column is predicted"),
        ({"target": "z"}, "which column is predicted"),
        ({"target": "y", "timestamp": "n"}, "'n' is no time"),
    ):
        with pytest.raises(Failure, match=said):
            bring(NUMBER + LABEL, **options)
    PB.write_bytes(b"\xff\xff")
    with pytest.raises(Failure, match="no TensorFlow Metadata schema"):
        formats.read(PB)
    PB.write_bytes(b"")
    with pytest.raises(Failure, match="has no feature"):
        formats.read(PB)
    keep(ODD)
    PBTXT.unlink()
    for name in (Path(), files.SCHEMA, Path("a.csv")):
        with pytest.raises(Failure, match="the name must end in"):
            formats.export(name, None, "tfmd")
    with pytest.raises(Failure, match=r"train\.parquet is missing"):
        formats.export(PBTXT, Path("train.pb"), "tfmd")
    assert not PBTXT.exists()


def test_without_the_package_a_line_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(Failure, match="is not installed: uv sync --group tfmd"):
        formats.export(PBTXT, None, "tfmd")


def test_statistics(folder) -> None:
    contract = {
        **{"name": "t", "task": "regression", "target": "y"},
        "columns": {
            "y": {"type": "number", "role": "target"},
            "n": {"type": "integer", "nullable": True},
            "b": {"type": "boolean"},
            "c": {"type": "category", "categories": ["NA", "x", "é"], "nullable": True},
            "when": {"type": "timestamp", "role": "input", "format": "%d.%m.%Y"},
            "ms": {"type": "timestamp", "role": "input", "format": "epoch ms"},
            "same": {"type": "number"},
            "none": {"type": "number", "nullable": True, "max_null": 1},
        },
    }
    schema = keep(contract)
    day = pd.Timestamp("2026-01-31 00:00:01.5")
    table = pd.DataFrame(
        {
            "y": [0.0, 1.5, 2.5, 8.0],
            "n": pd.array([1, None, 3, 0], dtype="Int64"),
            "b": [True, False, True, True],
            "c": ["NA", "é", "NA", None],
            "when": [day] * 4,
            "ms": [day] * 4,
            "same": [2.0] * 4,
            "none": [float("nan")] * 4,
            "other": [1] * 4,
        }
    )
    files.TRAIN.parent.mkdir()
    table.to_parquet(files.TRAIN)
    for path in (Path("train.pb"), Path("train.pbtxt")):
        formats.export(PBTXT, path, "tfmd")
    found = statistics_pb2.DatasetFeatureStatisticsList()
    found.ParseFromString(Path("train.pb").read_bytes())
    text = Path("train.pbtxt").read_text("utf-8")
    assert text_format.Parse(text, statistics_pb2.DatasetFeatureStatisticsList()) == found
    (dataset,) = found.datasets
    assert (dataset.name, dataset.num_examples) == ("train", 4)
    features = {feature.path.step[0]: feature for feature in dataset.features}
    assert features.keys() == schema.used.keys()
    y = features["y"].num_stats
    assert (y.min, y.max, y.mean, y.median, y.num_zeros) == (0, 8, 3, 2, 1)
    assert y.std_dev == pytest.approx(table.y.std(ddof=0))
    counts = [bucket.sample_count for bucket in y.histograms[1].buckets]
    assert counts == [1, 1, 0, 1, 0, 0, 0, 0, 0, 1]
    common = {name: one.num_stats.common_stats for name, one in features.items()}
    assert (common["n"].num_non_missing, common["n"].num_missing) == (3, 1)
    assert (common["none"].num_non_missing, common["none"].num_missing) == (0, 4)
    assert features["b"].num_stats.mean == 0.75
    assert features["same"].num_stats.histograms[1].buckets[0].sample_count == 4
    words = features["c"].string_stats
    assert words.unique == 2
    assert [(one.value, one.frequency) for one in words.top_values] == [("NA", 2), ("é", 1)]
    assert [one.label for one in words.rank_histogram.buckets] == ["NA", "é"]
    assert features["when"].string_stats.top_values[0].value == "31.01.2026"
    assert features["ms"].num_stats.max == day.value // 10**6
    kinds = {one.name: one.type for one in schema_of(PBTXT).feature}
    assert {name: one.type != one.STRING for name, one in features.items()} == {
        name: kind != schema_pb2.BYTES for name, kind in kinds.items()
    }


def schema_of(path: Path) -> Any:
    return formats.read(path)


def test_the_text_is_yaml_that_a_person_can_read() -> None:
    bring(NUMBER + LABEL, target="y")
    text = files.SCHEMA.read_text("utf-8")
    assert "  n: {type: number}\n" in text
    assert ": null" not in text
    assert parse_yaml(text, "schema.yaml", Schema).columns["y"].categories == ("0", "1")
