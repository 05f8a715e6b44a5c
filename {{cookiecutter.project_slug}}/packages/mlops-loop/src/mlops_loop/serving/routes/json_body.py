"""Read a request's JSON body."""

from fastapi import Request

from mlops_loop.serving.openapi import JSON
from mlops_loop.serving.request_schema import Invalid


async def read_json(request: Request) -> bytes:
    """Return the body.

    Raises Invalid if it does not claim to be JSON: a form on another site cannot.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise Invalid(415, f"send the header Content-Type: {JSON}")
    # Not request.body(), which the request would keep.
    return b"".join([part async for part in request.stream()])
