"""POST /v1/predict: scores rows; every prediction is in the log before it is answered."""

import msgspec
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.scoring.predictions import with_ids
from mlops_loop.serving.http.middleware import Handler
from mlops_loop.serving.openapi import JSON
from mlops_loop.serving.request_schema import NOT_A_COLUMN, Invalid
from mlops_loop.serving.service import Answer, Service

encode = msgspec.json.Encoder().encode


def predict_handler(service: Service) -> Handler:
    """Return what answers /v1/predict, its errors included."""

    async def predict(request: Request) -> Response:
        idempotency_key = request.headers.get("idempotency-key")
        # While it waits for the log, a request holds its answer only: no body, no rows.
        body = read_json(request)
        entry, text, shadow = score(await body, request.state.key, idempotency_key)
        if first_answer := await service.make_durable(entry, idempotency_key):
            text = to_json(first_answer)
        return Response(text, media_type=JSON, background=shadow)

    def score(
        body: bytes, key: str | None, idempotency_key: str | None
    ) -> tuple[Entry, bytes, BackgroundTask | None]:
        scored = service.score_request(
            body, lambda model: model.reader.read(body), key, idempotency_key
        )
        return scored.entry, to_json(scored.answer), scored.shadow

    async def answer(request: Request) -> Response:
        try:
            if request.method != "POST":
                raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})
            return await predict(request)
        except Invalid as error:
            return invalid_request(service, request, error)
        except HTTPException as error:
            return http_error(request, error)

    return answer


async def read_json(request: Request) -> bytes:
    """Return the body.

    Raises Invalid if it does not claim to be JSON: a form on another site cannot.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise Invalid(415, f"send the header Content-Type: {JSON}")
    # Not request.body(), which the request would keep.
    return b"".join([part async for part in request.stream()])


def to_json(answer: Answer) -> bytes:
    predictions = with_ids(answer.ids, answer.outputs)
    return encode({"model_version": answer.model_version, "predictions": predictions})


def invalid_request(service: Service, request: Request, error: Invalid) -> JSONResponse:
    """Return the answer to a request that breaks the contract or the format."""
    if error.column in service.model.bundle.schema.columns or error.column == NOT_A_COLUMN:
        request.state.column = error.column  # the middleware counts it
    if request.url.path.startswith("/v2"):  # as its protocol has it; `detail` is FastAPI's
        where = ", ".join(map(str, error.place[1:]))
        text = f"{where}: {error}" if where else str(error)
        return JSONResponse({"error": text}, error.status)
    return JSONResponse({"detail": error.detail}, error.status)


def http_error(request: Request, error: HTTPException) -> JSONResponse:
    key = "error" if request.url.path.startswith("/v2") else "detail"
    return JSONResponse({key: error.detail}, error.status_code, error.headers)
