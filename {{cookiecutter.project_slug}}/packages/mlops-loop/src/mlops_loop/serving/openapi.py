"""The OpenAPI document: the contract's types, and the keys and limits that are in force."""

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import JsonValue

from mlops_loop.base.project import current_project
from mlops_loop.scoring.predictions import answer_schema, with_ids
from mlops_loop.serving.http.auth import is_open
from mlops_loop.serving.loaded_model import LoadedModel

ELSEWHERE = (
    "Besides: `/v2` speaks the Open Inference Protocol, `/metrics` is for Prometheus, and "
    "[the first page](./) has a form and the model card."
)
ERROR_SCHEMA = {"type": "object", "properties": {"detail": {}}, "required": ["detail"]}
ANY_ID = "019a7c3e51d0f4b28c6e9d2a7b150000"  # in examples
REF = "#/components/schemas/{name}"
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
Document = dict[str, JsonValue]


def content(name: str) -> Document:
    return {"application/json": {"schema": {"$ref": REF.format(name=name)}}}


def error_responses(texts: dict[int, str]) -> Document:
    return {
        str(code): {"description": text, "content": content("Error")}
        for code, text in texts.items()
    }


def json_operation(body: str, answer: str) -> Document:
    """Return the OpenAPI text of an endpoint that takes and returns JSON, by schemas' names."""
    success: Document = {"200": {"description": "Done", "content": content(answer)}}
    return {
        "requestBody": {"required": True, "content": content(body)},
        "responses": success | error_responses(BODY_ERRORS),
    }


def document(app: FastAPI, model: LoadedModel, keys_required: bool, rate_limited: bool) -> Document:
    """Return the document of what is served now: a new model may come with another contract."""
    found = get_openapi(
        title=current_project().name,
        version=model.version,
        description=f"{model.bundle.schema.description}\n\n{ELSEWHERE}",
        routes=app.routes,
        servers=[{"url": "."}],  # from where this document is: a proxy may add a prefix
    )
    components = found["components"]
    components["schemas"] |= schemas(model)
    if keys_required:
        components["securitySchemes"] = {"key": API_KEY}
    errors = KEY_ERRORS if keys_required else NO_KEY_ERRORS
    errors = errors | (RATE_ERRORS if rate_limited else {})
    for path, operations in found["paths"].items():
        for operation in operations.values():
            if not is_open(path):
                operation["responses"] |= error_responses(errors)
                if keys_required:
                    operation["security"] = [{"key": []}]
    return found


def schemas(model: LoadedModel) -> dict[str, object]:
    """Return the schemas of requests, as they are checked, and of answers."""
    row = model.bundle.manifest.example
    answers = with_ids([ANY_ID], model.score(model.reader.from_records([row]))[0])
    answer = {"model_version": model.version, "predictions": msgspec.to_builtins(answers)}
    classes = model.bundle.schema.classes
    outcome = {"prediction_id": ANY_ID, "value": classes[0] if classes else 1}
    types = (model.reader.body_type, model.outcomes.body_type)
    _, found = msgspec.json.schema_components(types, ref_template=REF)
    names = model.reader.names  # columns may have any name, keys in msgspec may not
    properties = found["Row"]["properties"]
    found["Row"]["properties"] = {names[key]: schema for key, schema in properties.items()}
    found["Row"]["required"] = [names[key] for key in found["Row"]["required"]]
    found["Rows"]["example"] = {"rows": [row]}
    found["Outcomes"]["example"] = {"outcomes": [outcome]}
    described = {**answer_schema(model.bundle.schema), "example": answer}
    return {**found, "Answer": described, "Error": ERROR_SCHEMA}
