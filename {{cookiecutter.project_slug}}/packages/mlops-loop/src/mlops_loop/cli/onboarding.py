"""The verbs of `onboarding`: a contract for a table, doctor, demo."""

from typing import Annotated

import typer

from mlops_loop.cli.groups import APP, SCHEMA
from mlops_loop.contract.values import Task


@SCHEMA.command("infer", epilog="{example} schema infer table.csv --target price --force")
def schema_infer(
    target: Annotated[str, typer.Option(help="The column to predict.")],
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Any table, or its URL.")
    ] = None,
    timestamp: Annotated[
        str | None, typer.Option(help="The column to split by; else at random.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="Instead of what the target suggests.")] = None,
    sql: Annotated[
        str | None, typer.Option(help="A query instead of a file; needs --url-env.")
    ] = None,
    url_env: Annotated[
        str | None, typer.Option(help="Environment variable with the database's URL.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the schema.yaml that is there.")
    ] = False,
) -> None:
    """Profile a table; write schema.yaml, and adapt the project to that table."""
    if (file is None) == (sql is None) or (sql is None) != (url_env is None):
        raise typer.BadParameter("give either FILE, or --sql and --url-env")
    from mlops_loop.base.params import Sql
    from mlops_loop.onboarding.infer.main import infer

    source = Sql(sql=sql, url_env=url_env) if sql and url_env else file or ""
    infer(source, target, timestamp, task, force)


@APP.command(epilog="{example} doctor")
def doctor() -> None:
    """Check tools, servers, storage, secrets and disk; exit code 3 if something required is
    missing.
    """
    from mlops_loop.onboarding.doctor import doctor

    doctor()


@APP.command(epilog="{example} demo")
def demo() -> None:
    """Run every step once: pipeline, promotion, server, traffic, monitor."""
    from mlops_loop.onboarding.demo import demo

    demo()
