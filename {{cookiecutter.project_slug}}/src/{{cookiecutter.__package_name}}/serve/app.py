"""App: the HTTP API around a bundle. Its types and texts come from the bundle's contract.

`create_app` serves the bundle that is there; `follow` goes over to another one when that takes its place.
"""

import hmac
import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import APIKeyHeader
from fastapi_offline import FastAPIOffline  # /docs without a network
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, with_config
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import TypedDict  # typing's is not enough for pydantic before 3.12

from .. import NAME
from ..bundle import Bundle, open_bundle
from ..schema import Column, Schema
from ..settings import load_settings
from . import log
from .answers import ANSWERS
from .scorer import Scorer

MAX_ROWS = 1000  # in one request
KEY = APIKeyHeader(name="X-API-Key", auto_error=False)
PAUSE = 0.5  # seconds between two looks at the bundle's folder
NAV = '<nav><a href="/docs">API documentation</a><a href="/v1/model">Facts of this model</a></nav>'
# The card shows itself only: no script runs, nothing is fetched, no other site may frame it.
CARD_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def whole(value: Any) -> Any:
    """Return 5.0 as 5: to JSON they are the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def value_type(column: Column, missing: tuple[str, ...] = ("",)) -> Any:
    """Return the type of one value: strict, within the contract's range or categories."""
    text = f"{column.description} ({column.unit})" if column.unit else column.description
    limits: Any = {
        "ge": column.limits[0],
        "le": column.limits[1],
        "strict": True,
    }  # no "5" for 5, no 1 for true
    known = ", ".join(column.categories or ())
    if column.unseen:
        text += f" Known are {known}; others are taken as unknown."
    checked: Any = {
        # The pattern refuses halves of a surrogate pair, which are no text.
        "category": Annotated[str, Field(description=text.strip(), strict=True, pattern=r"^[\s\S]+$")]
        if column.unseen
        else Annotated[Literal[column.categories], Field(description=text)],
        "boolean": Annotated[bool, Field(description=text, strict=True)],
        "integer": Annotated[int, BeforeValidator(whole), Field(description=text, **limits)],
        "number": Annotated[float, Field(description=text, allow_inf_nan=False, **limits)],
    }[column.type]
    value = checked | None if column.nullable else checked
    if column.unseen:  # any text would do, but some stand for a missing value
        value = Annotated[value, BeforeValidator(lambda given: None if given in missing else given)]
    return NotRequired[value] if column.nullable else value


def request_type(schema: Schema, example: dict[str, Any]) -> type[BaseModel]:
    """Return the type of a request body. A row is a TypedDict: any column name will do."""
    types = {name: value_type(column, schema.missing) for name, column in schema.features.items()}
    row: Any = with_config(extra="forbid")(TypedDict("Row", types))  # type: ignore[operator]
    config = ConfigDict(extra="forbid", json_schema_extra={"example": {"rows": [example]}})
    rows = Annotated[list[row], Field(min_length=1, max_length=MAX_ROWS)]
    return create_model("Rows", __config__=config, rows=(rows, ...))


def create_app(bundle: Bundle | None = None, engine: Engine | None = None) -> FastAPI:
    """Return the API of a bundle, by default the one in BUNDLE, with its prediction log."""
    settings = load_settings()
    bundle = bundle or open_bundle(Path(settings.bundle))
    engine = engine or log.open_log(settings.prediction_log_url)
    scorer, schema, manifest = Scorer(bundle), bundle.schema, bundle.manifest
    card = bundle.folder / "card.html"
    page = card.read_text(encoding="utf-8").replace("<body>", f"<body>{NAV}", 1) if card.is_file() else ""
    prediction: Any = ANSWERS[schema.task][0]
    answer_type = create_model("Answer", model_version=(str, ...), predictions=(list[prediction], ...))
    body_type = request_type(schema, manifest["example"])
    keys = [key.encode() for key in settings.keys().values()]
    about: Any = {"title": NAME, "version": bundle.version, "description": schema.description}
    app: FastAPI = FastAPIOffline(redoc_url=None, **about)

    def check(key: Annotated[str | None, Security(KEY)]) -> None:
        # Compared with every key, in constant time each: the time taken tells nothing.
        if keys and not sum(hmac.compare_digest((key or "").encode(), known) for known in keys):
            raise HTTPException(401, "X-API-Key is missing or wrong")

    keyed: Any = {"dependencies": [Depends(check)]}

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # An error must not echo what it was sent: neither values nor names that are not ours.
        detail = [{"loc": e["loc"], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
        for item in detail:
            item["loc"] = item["loc"][:-1] if item["type"] == "extra_forbidden" else item["loc"]
        return JSONResponse({"detail": detail}, 422)

    @app.post("/v1/predict", responses={400: {}, 401: {}, 503: {}}, **keyed)
    def predict(body: body_type) -> answer_type:  # type: ignore[valid-type]
        """Score the rows; every prediction is in the log before it is answered."""
        started, rows = time.perf_counter(), body.rows  # type: ignore[attr-defined]
        outputs = scorer.score({name: [row.get(name) for row in rows] for name in schema.features})
        latency = (time.perf_counter() - started) * 1000
        common = {"time": datetime.now(UTC), "model_version": bundle.version, "latency_ms": latency}
        records = [
            {"id": uuid.uuid4().hex, "features": row, "output": output, **common}
            for row, output in zip(rows, outputs, strict=True)
        ]
        try:
            log.write(engine, records)
        except SQLAlchemyError:
            raise HTTPException(503, "the prediction log is out of reach; try again") from None
        predictions = [prediction(id=record["id"], **record["output"]) for record in records]
        return answer_type(model_version=bundle.version, predictions=predictions)

    @app.get("/v1/model", responses={401: {}}, **keyed)
    def model() -> dict[str, Any]:
        """Say which model answers, how good it was on its test window, and who promoted it."""
        shown = {"name", "task", "target", "classes", "threshold", "half_width", "metrics", "baseline"}
        facts = {key: value for key, value in manifest.items() if key in shown}
        return {"version": bundle.version, "promotion": bundle.promotion, **facts}

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def model_card() -> HTMLResponse:
        if not page:
            raise HTTPException(404, "this model has no card: it is from an older version; see /docs")
        return HTMLResponse(page, headers=CARD_HEADERS)

    @app.get("/health/live")
    def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready", "model_version": bundle.version}

    return app


def look(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells that a file in the folder was changed or replaced; nothing if it is not there."""
    try:
        facts = {str(path): path.stat() for path in folder.rglob("*")}
    except FileNotFoundError:  # it is being replaced
        return {}
    return {path: (fact.st_ino, fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


def follow() -> Any:
    """Return an ASGI app that serves the bundle in BUNDLE, and the next one as soon as that is whole.

    A request is answered by the app that is there when it comes: none is dropped, and none sees two
    models. A bundle that cannot be served is logged, and the one before goes on.
    """
    settings, logger = load_settings(), logging.getLogger("uvicorn.error")
    folder, engine = Path(settings.bundle), log.open_log(settings.prediction_log_url)
    seen, said = look(folder), ""
    bundle = open_bundle(folder)
    app = create_app(bundle, engine)

    async def current(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    def step() -> None:
        nonlocal seen, said, bundle, app
        if (now := look(folder)) == seen:
            return
        try:
            found, problem = open_bundle(folder), ""
            same = (found.sha256, found.promotion) == (bundle.sha256, bundle.promotion)
            new = app if same else create_app(found, engine)
        except Exception as error:  # of whatever kind: it must not end the following
            problem = str(error).partition("\n")[0]
        if look(folder) != now:
            return  # replaced meanwhile: what was read may be of two bundles
        seen = now
        if problem and problem != said:
            logger.error("version %s is served on, the new bundle cannot be: %s", bundle.version, problem)
        elif not problem and not same:
            bundle, app = found, new
            logger.info("version %s is served now", bundle.version)
        said = problem

    def watch() -> None:
        while True:
            time.sleep(PAUSE)
            step()

    threading.Thread(target=watch, daemon=True, name="follow").start()
    return current
