"""The OpenAPI document: the contract's types, and the keys and limits that are in force."""

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, JsonValue

from mlops_loop.scoring.predictions import answer_schema, with_ids
from mlops_loop.serving.hot_reload import LoadedModel

ELSEWHERE = (
    "Besides: `/v2` speaks the Open Inference Protocol, `/metrics` is for Prometheus, and "
    "[the first page](./) has a form and the model card."
)
ANY_ID = "019a7c3e51d0f4b28c6e9d2a7b150000"  # in examples
REF = "#/components/schemas/{name}"
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
Responses = dict[int | str, dict[str, object]]  # as FastAPI takes them


class Error(BaseModel):
    """Why a request is not answered: a text, or a list of what is wrong where."""

    detail: JsonValue


def error_responses(texts: dict[int, str]) -> Responses:
    return {code: {"description": text, "model": Error} for code, text in texts.items()}


def content(name: str) -> Document:
    return {"application/json": {"schema": {"$ref": REF.format(name=name)}}}


def json_operation(body: str, answer: str) -> Document:
    """Return the OpenAPI text of an endpoint that takes and returns JSON, by schemas' names."""
    return {
        "requestBody": {"required": True, "content": content(body)},
        "responses": {"200": {"content": content(answer)}},
    }


def document(app: FastAPI, model: LoadedModel) -> Document:
    """Return the document of what is served now: a new model may come with another contract."""
    found = get_openapi(
        title=app.title,
        version=model.version,
        description=f"{model.bundle.schema.description}\n\n{ELSEWHERE}",
        routes=app.routes,
        servers=[{"url": "."}],  # from where this document is: a proxy may add a prefix
    )
    found["components"]["schemas"] |= schemas(model)
    return found


def schemas(model: LoadedModel) -> dict[str, object]:
    """Return the schemas of requests, as they are checked, and of answers."""
    row = model.bundle.manifest.example
    answers = with_ids([ANY_ID], model.score(model.reader.from_records([row]))[0])
    answer = {"model_version": model.version, "predictions": msgspec.to_builtins(answers)}
    classes = model.bundle.schema.classes
    outcome = {"prediction_id": ANY_ID, "value": classes[0] if classes else 1}
    types = (model.reader.rows_type, model.reader.outcomes_type)
    _, found = msgspec.json.schema_components(types, ref_template=REF)
    names = model.reader.names  # columns may have any name, keys in msgspec may not
    properties = found["Row"]["properties"]
    found["Row"]["properties"] = {names[key]: schema for key, schema in properties.items()}
    found["Row"]["required"] = [names[key] for key in found["Row"]["required"]]
    found["Rows"]["example"] = {"rows": [row]}
    found["Outcomes"]["example"] = {"outcomes": [outcome]}
    return {**found, "Answer": {**answer_schema(model.bundle.schema), "example": answer}}
