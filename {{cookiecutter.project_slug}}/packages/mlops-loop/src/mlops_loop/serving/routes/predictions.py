"""POST /v1/predict."""

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask

from mlops_loop.prediction_log.predictions import Entry
from mlops_loop.scoring.predictions import with_ids
from mlops_loop.serving.http.middleware import Handler
from mlops_loop.serving.openapi import JSON, json_operation
from mlops_loop.serving.routes.json_body import read_json
from mlops_loop.serving.service import Answer, Service

encode = msgspec.json.Encoder().encode


def predict_handler(service: Service) -> Handler:
    async def predict(request: Request) -> Response:
        """Score the rows; every prediction is in the log before it is answered."""
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

    return predict


def to_json(answer: Answer) -> bytes:
    predictions = with_ids(answer.ids, answer.outputs)
    return encode({"model_version": answer.model_version, "predictions": predictions})


def router(handler: Handler) -> APIRouter:
    endpoints = APIRouter()
    documented = json_operation("Rows", "Answer")
    endpoints.post(
        "/v1/predict", openapi_extra={**documented}, summary="Predict rows and log each prediction"
    )(handler)
    return endpoints
