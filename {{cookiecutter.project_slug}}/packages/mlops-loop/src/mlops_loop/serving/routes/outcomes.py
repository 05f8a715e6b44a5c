"""POST /v1/outcomes: ground truth."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mlops_loop.prediction_log.ground_truth import record_ground_truth
from mlops_loop.serving.ground_truth import read_outcomes
from mlops_loop.serving.openapi import json_operation
from mlops_loop.serving.routes.json_body import read_json
from mlops_loop.serving.service import RETRY_AFTER, Service


def router(service: Service) -> APIRouter:
    endpoints = APIRouter()
    documented = json_operation("Outcomes", "Recorded")

    @endpoints.post(
        "/v1/outcomes", openapi_extra={**documented}, summary="Record what really happened"
    )
    async def outcomes(request: Request) -> Response:
        """Record what really happened. A later value of a prediction replaces the earlier one."""
        pairs = read_outcomes(await read_json(request), service.model.bundle.schema)
        try:
            recorded = await asyncio.to_thread(record_ground_truth, service.writer.engine, pairs)
        except SQLAlchemyError:
            reason = "the prediction log is unreachable; try again"
            raise HTTPException(503, reason, RETRY_AFTER) from None
        return JSONResponse(recorded._asdict())

    return endpoints
