"""The verb of `serving`."""

from pathlib import Path
from typing import Annotated

import typer

from mlops_loop.base.errors import Failure
from mlops_loop.cli.groups import APP

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@APP.command(epilog="{example} serve --port 8080")
def serve(
    host: Annotated[str, typer.Option(help="Any other address needs API_KEYS.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the champion's bundle over HTTP; the API's documentation is at /docs."""
    from mlops_loop.base.settings import load_settings

    settings = load_settings()
    if not Path(settings.bundle).exists():
        from mlops_loop.release.audit import why_no_champion

        raise Failure(why_no_champion(settings))
    if host not in LOOPBACK and not settings.asks_for_keys:
        raise Failure(f"API_KEYS must be set to serve on {host}: anyone there could call the model")
    from mlops_loop.serving.server import serve

    serve(host, port, workers)
