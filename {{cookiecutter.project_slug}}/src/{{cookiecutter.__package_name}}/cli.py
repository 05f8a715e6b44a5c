"""Command line: every verb. Heavy libraries are imported by the verb that needs them."""

import socket
from typing import Annotated

import typer

from . import NAME
from .errors import Failure, Refusal, run

HELP = "Train, promote, serve and watch the model. The pipeline itself is `uv run dvc repro`."
CODES = "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 the check ran and says no."
EXAMPLE = f"Example: uv run {NAME}"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
app = typer.Typer(name=NAME, help=HELP, epilog=CODES, no_args_is_help=True, add_completion=False)


@app.command(epilog=f"{EXAMPLE} demo")
def demo() -> None:
    """Run the whole way: pipeline, promotion, server, traffic and monitor."""
    from .demo import demo

    demo()


@app.command(epilog=f"{EXAMPLE} promote")
def promote() -> None:
    """Register the bundle as a version, and make it champion if it beats the champion."""
    from .promote import promote

    promotion = promote()
    word = "the new champion" if promotion["new"] else "champion already"
    print(f"version {promotion['version']} is {word}")


@app.command(epilog=f"{EXAMPLE} serve --port 8080")
def serve(
    host: Annotated[str, typer.Option(help="Any other address needs API_KEYS.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the champion's bundle over HTTP; the API's documentation is at /docs."""
    import uvicorn

    from .serve.app import create_app
    from .settings import load_settings

    if host not in LOOPBACK and not load_settings().keys():
        raise Failure(f"API_KEYS must be set to serve on {host}: anyone there could call the model")
    create_app()  # once here, so that what is wrong is said in one line
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise Failure(f"cannot listen on {host}:{port}: {error.strerror}; try --port") from None
    factory = f"{__package__}.serve.app:create_app"
    uvicorn.run(factory, factory=True, host=host, port=port, workers=workers)


@app.command(epilog=f"{EXAMPLE} monitor --days 1")
def monitor(
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="[default: monitor.days]")] = None,
) -> None:
    """Compare recent predictions with the training sample; exit code 3 if they drifted."""
    from .monitor import monitor

    found = monitor(days)
    words = "{drift_share:.0%} of the columns drifted in {rows:,} predictions, the limit is "
    words = (words + "{drift_share_limit:.0%}; see {report}").format(**found)
    if found["drift"]:
        raise Refusal(f"drift: {words}")
    print(f"no drift: {words}")


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
