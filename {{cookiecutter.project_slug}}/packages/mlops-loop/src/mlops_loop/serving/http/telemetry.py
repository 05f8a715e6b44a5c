"""Telemetry: logs as JSON lines, and OpenTelemetry traces where an OTLP endpoint is set.

Neither holds clients, keys or rows: paths are those of the routes, exceptions have no texts.
"""

import os
import traceback

from fastapi.telemetry import TelemetryConfig
from pydantic import JsonValue
from pythonjsonlogger.core import RESERVED_ATTRS, LogData
from pythonjsonlogger.msgspec import MsgspecFormatter

from mlops_loop.base.errors import redacted
from mlops_loop.base.project import current_project

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class JsonLines(MsgspecFormatter):
    """Formats a record as one line of JSON; `time` is UTC."""

    def __init__(self) -> None:
        super().__init__(
            ("levelname", "name", "message"),
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
            timestamp="time",
        )

    def process_log_record(self, log_data: LogData) -> LogData:
        return log_data | {"message": redacted(log_data["message"])}

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        return format_exception(ei[1]) if isinstance(ei, tuple) and ei[1] else ""


def format_exception(error: BaseException) -> str:
    """Return type and traceback of an exception and its cause; its texts may quote rows."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    text = f"{frames}{type(error).__module__}.{type(error).__qualname__}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{format_exception(cause)}\n\n{text}" if cause else text


# Of a server's process, as uvicorn's log_config. uvicorn's own line on each request names the
# client and the raw path: `Exchange` logs another.
LOGGING: dict[str, JsonValue] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": f"{__name__}.{JsonLines.__name__}"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {"uvicorn.access": {"level": "CRITICAL"}},
}


def tracing_options() -> TelemetryConfig:
    """Return what FastAPI takes as `telemetry`: traces, if the environment has an OTLP endpoint."""
    off = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
    if not any(map(os.environ.get, ENDPOINTS)):
        return off
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # here, because it costs memory
    from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider

    class RedactUrls(SpanProcessor):
        """Redacts what a client may have put into its URL; the route stays."""

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
            for name in {"url.path", "url.query"} & set(span.attributes or ()):
                span.set_attribute(name, "REDACTED")

    service = os.environ.get("OTEL_SERVICE_NAME") or current_project().name
    resource = Resource.create({SERVICE_NAME: service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(RedactUrls())
    return off | {"tracing": True, "tracer_provider": provider, "auto_configure": True}
