"""The OpenAPI document: the contract's types, and the keys and limits that are in force."""

from typing import TypedDict

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import JsonValue

from mlops_loop.base.project import current_project
from mlops_loop.contract.json_schema import JsonSchema
from mlops_loop.scoring.predictions import AnswerBody, answer_schema, with_ids
from mlops_loop.serving.ground_truth import ANY_ID, RECORDED, outcomes_schema
from mlops_loop.serving.http.access import is_open
from mlops_loop.serving.loaded_model import LoadedModel
from mlops_loop.serving.row_schema import row_schema, rows_schema

JSON = "application/json"
ELSEWHERE = (
    "Besides: `/v2` speaks the Open Inference Protocol, `/metrics` is for Prometheus, and "
    "[the first page](./) has a form and the model card."
)
ERROR_SCHEMA: JsonSchema = {"type": "object", "properties": {"detail": {}}, "required": ["detail"]}
API_KEY = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
BODY_ERRORS = {
    400: "Not JSON, or a key is there twice",
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
    )
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
        "Outcomes": outcomes_schema(bundle.schema),
        "Recorded": RECORDED,
        "Error": ERROR_SCHEMA,
    }


def example_answer(model: LoadedModel) -> AnswerBody:
    """Return the model's answer to the contract's example."""
    rows = model.reader.from_records([model.bundle.manifest.example])
    predictions = with_ids([ANY_ID], model.score(rows)[0])
    return {"model_version": model.version, "predictions": msgspec.to_builtins(predictions)}
