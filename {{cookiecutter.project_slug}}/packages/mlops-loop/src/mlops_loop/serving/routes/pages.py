"""GET /: the page for people."""

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from mlops_loop.serving.pages import model_page
from mlops_loop.serving.service import Service


def router(service: Service, keys_required: bool) -> APIRouter:
    endpoints = APIRouter(include_in_schema=False)

    @endpoints.get("/", response_class=HTMLResponse)
    async def first_page() -> HTMLResponse:
        page = model_page.html(service.model.bundle, keys_required)
        return HTMLResponse(page, headers=model_page.HEADERS)

    @endpoints.get("/page.js")
    async def script() -> Response:
        return Response(model_page.SCRIPT, media_type="text/javascript")

    return endpoints
