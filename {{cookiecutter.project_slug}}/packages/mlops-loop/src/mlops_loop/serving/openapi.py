"""The OpenAPI document: the contract's types, and the keys and limits that are in force."""

from math import ceil, floor
from typing import TypedDict

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import JsonValue
from pydantic.json_schema import JsonSchemaValue as JsonSchema

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import MAX_ROWS, Row
from mlops_loop.scoring.predictions import AnswerBody, answer_schema, with_ids
from mlops_loop.serving.http.auth import is_open
from mlops_loop.serving.loaded_model import LoadedModel

JSON = "application/json"
ELSEWHERE = (
    "Besides: `/v2` speaks the Open Inference Protocol, `/metrics` is for Prometheus, and "
    "[the first page](./) has a form and the model card."
)
ERROR_SCHEMA: JsonSchema = {"type": "object", "properties": {"detail": {}}, "required": ["detail"]}
ANY_ID = "019a7c3e51d0f4b28c6e9d2a7b150000"  # in examples
PREDICT = "/v1/predict"
PREDICT_TEXT = "Score the rows; every prediction is in the log before it is answered."
API_KEY = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
BODY_ERRORS = {
    400: "Not JSON",
    408: "The body arrived too slowly",
    413: "Too many bytes or rows",
    415: "Not application/json, or compressed",
    422: "The contract does not allow it",
    500: "An error of the server, such as a derive() that fails: its log has the reason",
    503: "Too busy, or the prediction log takes no more: Retry-After says when to try again",
}
KEY_ERRORS = {401: "X-API-Key is missing or wrong"}
NO_KEY_ERRORS = {403: "No API keys configured: only localhost requests are allowed"}
RATE_ERRORS = {429: "Too many requests with this key: Retry-After says when to try again"}


class MediaType(TypedDict):
    schema: JsonSchema


Content = dict[str, MediaType]


class ResponseObject(TypedDict):
    description: str
    content: Content


class RequestBody(TypedDict):
    required: bool
    content: Content


class Operation(TypedDict):
    """What OpenAPI says of an endpoint besides its path and texts."""

    requestBody: RequestBody
    responses: dict[str, ResponseObject]


def content(name: str) -> Content:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def error_response(description: str = "Error") -> ResponseObject:
    return {"description": description, "content": content("Error")}


def json_operation(body: str, answer: str) -> Operation:
    """Return the OpenAPI text of an endpoint that takes and returns JSON, by schemas' names."""
    errors = {str(code): error_response(text) for code, text in BODY_ERRORS.items()}
    success: ResponseObject = {"description": "Done", "content": content(answer)}
    return {
        "requestBody": {"required": True, "content": content(body)},
        "responses": {"200": success} | errors,
    }


def document(
    app: FastAPI, model: LoadedModel, keys_required: bool, rate_limited: bool
) -> dict[str, JsonValue]:
    """Return the document of what is served now: a new model may come with another contract."""
    found = get_openapi(
        title=current_project().name,
        version=model.bundle.version,
        description=f"{model.bundle.schema.description}\n\n{ELSEWHERE}",
        routes=app.routes,
        servers=[{"url": "."}],  # from where this document is: a proxy may add a prefix
    )
    # The middleware answers it, not a route.
    predict = {
        "summary": "Predict rows and log each prediction",
        "description": PREDICT_TEXT,
        "operationId": "predict",
        "tags": ["predictions"],
    }
    found["paths"] = {PREDICT: {"post": predict | json_operation("Rows", "Answer")}} | found[
        "paths"
    ]
    components = found.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas(model))
    if keys_required:
        components["securitySchemes"] = {"key": API_KEY}
    codes = KEY_ERRORS if keys_required else NO_KEY_ERRORS
    if rate_limited:
        codes = codes | RATE_ERRORS
    errors = {str(code): error_response(text) for code, text in codes.items()}
    for path, operations in found["paths"].items():
        for operation in operations.values():
            if not is_open(path):
                operation["responses"] |= errors
                if keys_required:
                    operation["security"] = [{"key": []}]
    return found


def schemas(model: LoadedModel) -> dict[str, JsonSchema]:
    bundle = model.bundle
    return {
        "Row": row_schema(bundle.schema),
        "Rows": rows_schema(bundle.manifest.example),
        "Answer": {**answer_schema(bundle.schema), "example": example_answer(model)},
        **outcome_schemas(model),
        "Error": ERROR_SCHEMA,
    }


def outcome_schemas(model: LoadedModel) -> dict[str, JsonSchema]:
    template = "#/components/schemas/{name}"
    _, found = msgspec.json.schema_components((model.outcomes.type,), ref_template=template)
    classes = model.bundle.schema.classes
    example = {"prediction_id": ANY_ID, "value": classes[0] if classes else 1}
    return {**found, "Outcomes": {**found["Outcomes"], "example": {"outcomes": [example]}}}


def example_answer(model: LoadedModel) -> AnswerBody:
    """Return the model's answer to the contract's example."""
    rows = model.reader.from_records([model.bundle.manifest.example])
    predictions = with_ids([ANY_ID], model.score(rows)[0])
    return {"model_version": model.version, "predictions": msgspec.to_builtins(predictions)}


def input_schema(column: Column, missing: tuple[str, ...]) -> JsonSchema:
    """Return the JSON Schema of one value."""
    text = f"{column.description} ({column.unit})" if column.unit else column.description
    low, high = column.limits
    kinds: dict[str, JsonSchema] = {
        "boolean": {"type": "boolean"},
        "integer": {"type": "integer", "minimum": ceil(low), "maximum": floor(high)},
        "number": {"type": "number", "minimum": low, "maximum": high},
        "category": {"type": "string", "enum": list(column.categories or ())},
        "timestamp": {"type": "string", "format": "date-time"},
    }
    found = kinds[column.type]
    if column.allow_unknown:
        text += f" Known are {', '.join(column.categories or ())}; others are taken as unknown."
        found = {"type": "string"}
        if not column.nullable:
            found["not"] = {"enum": list(missing)}
    if column.nullable:
        found["type"] = [str(found["type"]), "null"]
        if "enum" in found:
            found["enum"].append(None)
    return {"description": text.strip(), **found}


def row_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of a row."""
    inputs = schema.inputs.items()
    return {
        "type": "object",
        "title": "Row",
        "properties": {name: input_schema(column, schema.missing) for name, column in inputs},
        "required": [name for name, column in inputs if not column.nullable],
        "additionalProperties": False,
    }


def rows_schema(example: Row) -> JsonSchema:
    """Return the JSON Schema of a request's body."""
    rows: JsonSchema = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Row"},
        "minItems": 1,
        "maxItems": MAX_ROWS,
    }
    return {
        "type": "object",
        "title": "Rows",
        "properties": {"rows": rows},
        "required": ["rows"],
        "additionalProperties": False,
        "example": {"rows": [example]},
    }
