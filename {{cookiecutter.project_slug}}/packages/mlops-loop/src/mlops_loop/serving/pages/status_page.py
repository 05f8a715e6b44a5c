"""The status page: server and monitor, now and as trends, for those without Grafana."""

import time
from datetime import UTC, datetime
from html import escape
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from mlops_loop.base.project import current_project
from mlops_loop.serving import metrics
from mlops_loop.serving.pages import model_page
from mlops_loop.serving.pages.formats import format_age, format_number, format_time
from mlops_loop.serving.pages.monitor_section import monitor_section
from mlops_loop.serving.pages.recorder import Recorder
from mlops_loop.serving.pages.samples import take_sample
from mlops_loop.serving.pages.service_charts import service_charts
from mlops_loop.serving.service import Service

STYLE = model_page.STYLE + Path(__file__).with_name("status.css").read_text(encoding="utf-8")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="15">
<title>Status: {name}</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body>
<header>
<h1>Status: {name}</h1>
<nav><a href="./">Predict</a><a href="docs">API documentation</a><a href="metrics">Metrics</a></nav>
</header>
<main>
<section id="status" aria-label="State" data-state="{level}">
<p><span class="dot"></span>{text}</p>
<dl id="details">{details}</dl>
</section>
<section aria-labelledby="service">
<h2 id="service">The service, in the last hour</h2>
<div class="charts">{charts}</div>
</section>
<section aria-labelledby="monitor">
<h2 id="monitor">What the monitor found</h2>
{monitor}
</section>
</main>
<footer class="hint">As of {now}. The page reloads every 15 seconds.</footer>
</body></html>
"""


class State(NamedTuple):
    level: str  # good, poor or bad
    text: str
    details: dict[str, str]


def html(service: Service, recorder: Recorder) -> str:
    """Return the page. All texts are escaped."""
    state = service_state(service)
    pairs = ((escape(name), escape(text)) for name, text in state.details.items())
    return PAGE.format(
        style=STYLE,
        name=escape(current_project().name),
        level=state.level,
        text=escape(state.text),
        details="".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in pairs),
        charts=service_charts([*recorder.samples, take_sample()]),
        monitor=monitor_section(recorder.windows),
        now=escape(format_time(datetime.now(UTC))),
    )


def service_state(service: Service) -> State:
    status = service.writer.status()
    level = "good"
    text = f"Version {service.model.version} is ready"
    if refused := [name for name, one in service.followers.items() if one.refused]:
        level = "poor"
        text += f"; a newer bundle cannot be served ({', '.join(refused)})"
    if not status.answers:
        level = "poor"
        text += "; the prediction log is unreachable, predictions wait on disk"
    if not service.ready:
        level = "bad"
        text = "Not ready: the prediction log takes no more"
    details = {
        "promoted": promotion_text(service),
        "log queue": format_number(status.queue),
    }
    if (challenger := service.challenger.model) and service.settings.traffic:
        details["challenger"] = f"{challenger.version} ({service.settings.traffic})"
    details["on disk"] = format_number(status.spool_bytes / 2**20, "MB")
    return State(level, text, details)


def promotion_text(service: Service) -> str:
    seconds = metrics.promotion_time(service.model.bundle.promotion.promoted_at)
    if not isfinite(seconds):
        return "never"
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{format_time(moment)}, {format_age(time.time() - seconds)}"
