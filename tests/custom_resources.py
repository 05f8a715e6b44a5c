"""Custom resources: a strict check of manifests, and definitions for an API server of 1.20."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]
NAMED = {"enum", "default", "required", "example"}  # what holds values and no schemas
# Of today's definitions, what 1.20 does not know.
UNKNOWN = {"x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"}


def walk(schema: Any, change: Any) -> Any:
    """Return a schema with each schema in it changed, from the inside out."""
    if isinstance(schema, list):
        return [walk(one, change) for one in schema]
    if not isinstance(schema, dict):
        return schema
    new = {}
    for key, value in schema.items():
        if key == "properties":
            value = {name: walk(one, change) for name, one in value.items()}
        elif key not in NAMED:
            value = walk(value, change)
        new[key] = value
    return change(new)


def strict(schema: Schema) -> Schema:
    """A field that is not in the schema is an error."""
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def older(schema: Schema) -> Schema:
    schema = {key: value for key, value in schema.items() if key not in UNKNOWN}
    if schema.get("default") == "":
        del schema["default"]
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]
    kinds = {one.get("type") for one in schema.get("oneOf", ()) if isinstance(one, dict)}
    if schema.get("format") == "int-or-string" or kinds >= {"integer", "string"}:
        for key in ("format", "oneOf", "anyOf", "type"):
            schema.pop(key, None)
        schema["x-kubernetes-int-or-string"] = True
    return schema


@cache
def definitions(folder: Path) -> dict[tuple[str, str], Schema]:
    """Return the definitions in a folder by apiVersion and kind; KServe's is a mere schema."""
    found = {}
    for path in folder.glob("*.yaml"):
        whole = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)
        whole.pop("status", None)
        whole["metadata"] = {"name": whole["metadata"]["name"]}
        for version in whole["spec"]["versions"]:
            version.pop("selectableFields", None)
            found[f"{whole['spec']['group']}/{version['name']}", whole["spec"]["names"]["kind"]] = (
                whole
            )
    path = folder / "serving.kserve.io_inferenceservice_v1beta1.json"
    schema = json.loads(path.read_text("utf-8"))
    schema.pop("$schema", None)
    names = {"kind": "InferenceService", "plural": "inferenceservices", "shortNames": ["isvc"]}
    version = {"name": "v1beta1", "served": True, "storage": True, "subresources": {"status": {}}}
    version["schema"] = {"openAPIV3Schema": schema}
    found["serving.kserve.io/v1beta1", "InferenceService"] = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "inferenceservices.serving.kserve.io"},
        "spec": {
            "group": "serving.kserve.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }
    return found


def schema_of(definition: Schema, name: str) -> Schema:
    versions = {one["name"]: one for one in definition["spec"]["versions"]}
    schema: Schema = versions[name]["schema"]["openAPIV3Schema"]
    return schema


@cache
def validator(folder: Path, version: str, kind: str) -> jsonschema.Draft7Validator:
    """Return what checks a custom resource strictly."""
    schema = walk(schema_of(definitions(folder)[version, kind], version.rpartition("/")[2]), strict)
    schema["properties"]["metadata"] = {"type": "object"}
    schema["additionalProperties"] = False
    return jsonschema.Draft7Validator(schema)


def problems(folder: Path, documents: list[Schema]) -> list[str]:
    """Return what is wrong with the custom resources among some manifests."""
    found = []
    for document in documents:
        group, _, version = document["apiVersion"].partition("/")
        if not version or group.endswith("k8s.io") or "." not in group:
            continue
        if (document["apiVersion"], document["kind"]) not in definitions(folder):
            found.append(f"{document['apiVersion']} {document['kind']}: no schema")
            continue
        checked = validator(folder, document["apiVersion"], document["kind"])
        for error in checked.iter_errors(document):
            place = "/".join(map(str, error.absolute_path))
            found.append(f"{document['kind']}: {place}: {error.message[:200]}")
    return found


def as_of_1_20(definition: Schema) -> Schema:
    new: Schema = json.loads(json.dumps(definition))
    (version,) = new["spec"]["versions"]
    schema = walk(version["schema"]["openAPIV3Schema"], older)
    schema["properties"]["metadata"] = {"type": "object"}
    version["schema"]["openAPIV3Schema"] = schema
    return new
