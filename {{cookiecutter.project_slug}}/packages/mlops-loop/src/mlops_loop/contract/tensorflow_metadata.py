"""TensorFlow Metadata: the contract as the schema of TFX's tools, and such a schema as a contract.

What a feature cannot say is in its annotation, as tags `mlops_loop.KEY=JSON`: nothing is lost on
the way there and back. `native` reads what a feature itself says; a tag may not contradict that.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from math import ceil, floor, isfinite
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError
from tensorflow_metadata.proto.v0 import schema_pb2 as tfmd

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import LARGEST, Column, Schema

Keys = dict[str, object]  # of a column, or of the table
TAG = "mlops_loop."
TRAINING, SERVING = "TRAINING", "SERVING"  # environments: all columns, and what the API takes
KINDS = {"number": "FLOAT", "integer": "INT", "boolean": "INT"}  # all others are BYTES
ISO = "%Y-%m-%dT%H:%M:%S"
UNITS = {"s": "SECONDS", "ms": "MILLISECONDS", "us": "MICROSECONDS", "ns": "NANOSECONDS"}
EPOCHS = {f"epoch {unit}": f"UNIX_{name}" for unit, name in UNITS.items()}
UNUSED = {"PLANNED", "ALPHA", "DEPRECATED", "DEBUG_ONLY", "DISABLED"}  # TFDV skips these, too
MANY = 1000  # categories that a range of numbers may stand for
# What is read of a message; the rest is left out, and named.
READ = {
    *("name", "type", "deprecated", "presence", "shape", "value_count", "lifecycle_stage"),
    *("domain", "int_domain", "float_domain", "string_domain", "bool_domain", "time_domain"),
    *("distribution_constraints", "in_environment", "not_in_environment", "annotation"),
    *("feature", "default_environment", "dataset_constraints"),
}
# What no column can be.
COMPLEX = {
    *("sparse_feature", "weighted_feature", "group_presence", "value_counts", "struct_domain"),
    *("image_domain", "audio_domain", "video_domain", "content_chunk_domain"),
}
TEXTS = {"natural_language_domain", "url_domain", "mid_domain", "time_of_day_domain"}

DEFAULTS: Keys = {key: field.get_default() for key, field in Column.model_fields.items()}
ANY_TEXT: Keys = {"type": "id", "role": "ignored"}


class Unsayable(Exception):
    """What the contract cannot say of a feature."""


class Read(NamedTuple):
    """A contract's keys, and what was left out of them."""

    table: Keys
    columns: dict[str, Keys]
    left_out: list[str]


def kind_of(column: Column) -> str:
    """Return the type of a column's values there; `onboarding.statistics` writes the same."""
    return "INT" if column.format in EPOCHS else KINDS.get(column.type, "BYTES")


def to_message(schema: Schema) -> tfmd.Schema:
    message = tfmd.Schema(default_environment=[TRAINING, SERVING])
    message.feature.extend(to_feature(name, column) for name, column in schema.columns.items())
    message.dataset_constraints.min_examples_count = schema.min_rows
    left = {"columns", "min_rows", "description"}
    keys = schema.model_dump(mode="json", exclude=left, exclude_defaults=True)
    annotate(message, schema.description, keys)
    return message


def to_feature(name: str, column: Column) -> tfmd.Feature:
    feature = tfmd.Feature(name=name, type=kind_of(column))
    feature.value_count.min = feature.value_count.max = 1
    feature.presence.min_count = 1
    missing = column.max_null if column.nullable else 1 - column.mostly
    feature.presence.min_fraction = round(1 - missing, 12)
    if column.role == "ignored":
        feature.lifecycle_stage = tfmd.DISABLED
    elif not column.taken:
        feature.not_in_environment.append(SERVING)
    add_domain(feature, column)
    said = DEFAULTS | native(feature, {})
    keys = column.model_dump(mode="json", exclude={"description"})
    tags = {key: value for key, value in keys.items() if said.get(key) != value}
    annotate(feature, column.description, tags)
    return feature


def add_domain(feature: tfmd.Feature, column: Column) -> None:
    if column.categories:
        feature.string_domain.name = feature.name
        feature.string_domain.value.extend(column.categories)
        if column.allow_unknown or column.mostly < 1:
            share = 0 if column.allow_unknown else column.mostly
            feature.distribution_constraints.min_domain_mass = share
    elif column.type == "boolean":
        feature.bool_domain.SetInParent()
    elif column.format in EPOCHS:
        name = EPOCHS[column.format]
        feature.time_domain.integer_format = tfmd.TimeDomain.IntegerTimeFormat.Value(name)
    elif column.type == "timestamp":
        feature.time_domain.string_format = column.format or ISO
    elif column.type in ("number", "integer"):
        whole = column.type == "integer"
        domain = feature.int_domain if whole else feature.float_domain
        domain.SetInParent()
        largest = 2**63 - 1 if whole else LARGEST
        for key, limit, inward in (("min", column.minimum, ceil), ("max", column.maximum, floor)):
            if limit is not None and abs(limit) < largest:
                setattr(domain, key, inward(limit) if whole else limit)


def annotate(message: tfmd.Feature | tfmd.Schema, comment: str, tags: Mapping[str, object]) -> None:
    if comment:
        message.annotation.comment.append(comment)
    for key, value in tags.items():
        message.annotation.tag.append(f"{TAG}{key}={json.dumps(value, ensure_ascii=False)}")


def from_message(message: tfmd.Schema) -> Read:
    """Return what the contract can say of a schema.

    Raises Failure, which names each feature, for what it cannot say: values of a feature that are
    several, or no numbers and texts; and for tags that contradict their features.
    """
    named = [*message.string_domain, *message.int_domain, *message.float_domain]
    domains = {domain.name: domain for domain in named}
    columns: dict[str, Keys] = {}
    left_out = list(notes(message))
    refused = [
        f"{one.name!r} is a {field}"
        for field in sorted(COMPLEX & set_fields(message))
        for one in getattr(message, field)
    ]
    for feature in message.feature:
        try:
            if feature.name in columns:
                raise Unsayable("is there twice")
            columns[feature.name] = read_feature(feature, domains)
        except Unsayable as reason:
            refused.append(f"{feature.name!r} {reason}")
        left_out += notes(feature)
    if refused:
        raise Failure(f"the contract cannot say this: {'; '.join(refused)}")
    table = tags_of(message) | description(message)
    if message.dataset_constraints.min_examples_count:
        table["min_rows"] = message.dataset_constraints.min_examples_count
    return Read(table, columns, left_out)


def read_feature(feature: tfmd.Feature, domains: Mapping[str, object]) -> Keys:
    said = native(feature, domains)
    tags = tags_of(feature)
    keys = said | tags
    if not keys.get("nullable"):  # the presence was said of `mostly`
        keys.pop("max_null", None)
    if tags:
        try:
            column = Column.model_validate(keys)
        except ValidationError as error:
            first = error.errors()[0]
            raise Unsayable(f"has tags {TAG}... that do not fit: {first['msg']}") from None
        if native(to_feature(feature.name, column), {}) != said:
            raise Unsayable(f"is not what its tags {TAG}... say: correct or remove them")
    return keys | description(feature)


def native(feature: tfmd.Feature, domains: Mapping[str, object]) -> Keys:
    """Return the keys of a column by what the feature itself says, without its tags."""
    if found := sorted(COMPLEX & set_fields(feature)):
        raise Unsayable(f"has a {found[0]}")
    several = feature.HasField("value_count") and feature.value_count.max != 1
    if several or any(dim.size != 1 for dim in feature.shape.dim):
        raise Unsayable("has several values")
    keys = {**typed(feature, domains)}
    fraction = feature.presence.min_fraction
    if fraction < 1:
        keys |= {"nullable": True, "max_null": round(1 - fraction, 12)}
    if feature.HasField("distribution_constraints") and keys["type"] == "category":
        share = feature.distribution_constraints.min_domain_mass
        keys |= {} if share == 1 else {"mostly": share} if share else {"allow_unknown": True}
    unused = feature.deprecated or tfmd.LifecycleStage.Name(feature.lifecycle_stage) in UNUSED
    if unused or not is_served(feature):
        keys["role"] = "ignored"
    return keys


def is_served(feature: tfmd.Feature) -> bool:
    """Return whether requests have the feature: an environment of that name lacks the label."""
    within = {name.upper() for name in feature.in_environment}
    without = {name.upper() for name in feature.not_in_environment}
    return SERVING not in without and (not within or SERVING in within)


def typed(feature: tfmd.Feature, domains: Mapping[str, object]) -> Keys:
    """Return a feature's type and the values that it may have."""
    field = feature.WhichOneof("domain_info")
    domain = getattr(feature, field) if field else None
    if field == "domain":
        if feature.domain not in domains:
            raise Unsayable(f"has the domain {feature.domain!r}, which is not there")
        domain = domains[feature.domain]
    for kind, read in DOMAINS.items():
        if isinstance(domain, kind):
            return read(domain)
    kind = tfmd.FeatureType.Name(feature.type)
    if kind in ("INT", "FLOAT"):
        return {"type": "integer" if kind == "INT" else "number"}
    if kind == "BYTES":
        return ANY_TEXT
    raise Unsayable(f"is of type {kind}")


def integers(domain: tfmd.IntDomain) -> Keys:
    limits = limits_of(domain)
    if not domain.is_categorical:
        return {"type": "integer", **limits}
    if len(limits) < 2 or limits["maximum"] - limits["minimum"] >= MANY:
        raise Unsayable("is categorical: give its domain a min and a max")
    values = range(int(limits["minimum"]), int(limits["maximum"]) + 1)
    return {"type": "category", "categories": list(map(str, values))}


def numbers(domain: tfmd.FloatDomain) -> Keys:
    if domain.is_embedding or domain.is_categorical:
        raise Unsayable(f"is {'an embedding' if domain.is_embedding else 'categorical'}")
    return {"type": "number", **limits_of(domain)}


def categories(domain: tfmd.StringDomain) -> Keys:
    values = list(domain.value)
    return {"type": "category", "categories": values} if values else ANY_TEXT


def booleans(domain: tfmd.BoolDomain) -> Keys:
    values = [domain.false_value, domain.true_value]
    return {"type": "category", "categories": values} if any(values) else {"type": "boolean"}


def times(domain: tfmd.TimeDomain) -> Keys:
    if domain.WhichOneof("format") != "integer_format":
        form = domain.string_format
        return {"type": "timestamp"} | ({} if form in ("", ISO) else {"format": form})
    name = tfmd.TimeDomain.IntegerTimeFormat.Name(domain.integer_format)
    known = {value: key for key, value in EPOCHS.items()}
    if name not in known:
        raise Unsayable(f"is a time in {name}")
    return {"type": "timestamp", "format": known[name]}


DOMAINS: dict[type, Callable[[tfmd.TimeDomain], Keys]] = {
    tfmd.IntDomain: integers,
    tfmd.FloatDomain: numbers,
    tfmd.StringDomain: categories,
    tfmd.BoolDomain: booleans,
    tfmd.TimeDomain: times,
}


def limits_of(domain: tfmd.IntDomain | tfmd.FloatDomain) -> dict[str, float]:
    """Return minimum and maximum; those of a FloatDomain are float32, so 0.1 is one of them."""
    shorten = float if isinstance(domain, tfmd.IntDomain) else lambda value: np.float32(value)
    found = {"minimum": "min", "maximum": "max"}
    limits = {
        key: float(str(shorten(getattr(domain, name))))
        for key, name in found.items()
        if domain.HasField(name)
    }
    return {key: limit for key, limit in limits.items() if isfinite(limit)}


def set_fields(message: tfmd.Feature | tfmd.Schema) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


def notes(message: tfmd.Feature | tfmd.Schema) -> Iterator[str]:
    """Say what of a feature, or of the schema, is left out of the contract."""
    where = f"{message.name}: " if isinstance(message, tfmd.Feature) else ""
    for field in sorted(set_fields(message) - READ - COMPLEX):
        what = "texts of any kind are ignored" if field in TEXTS else "left out"
        yield f"{where}{field}: {what}"
    for tag in message.annotation.tag:
        if not tag.startswith(TAG):
            yield f"{where}tag {tag!r}: left out"


def tags_of(message: tfmd.Feature | tfmd.Schema) -> Keys:
    own = [tag.removeprefix(TAG) for tag in message.annotation.tag if tag.startswith(TAG)]
    try:
        return {key: json.loads(value) for key, _, value in (tag.partition("=") for tag in own)}
    except ValueError as error:
        raise Failure(f"a tag {TAG}... holds no JSON: {error}") from None


def description(message: tfmd.Feature | tfmd.Schema) -> Keys:
    text = " ".join(message.annotation.comment)
    return {"description": text} if text else {}
