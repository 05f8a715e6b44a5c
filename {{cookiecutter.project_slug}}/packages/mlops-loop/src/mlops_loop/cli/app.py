"""The command line: every verb. Heavy libraries are imported by the verb that needs them."""

import sys
from io import TextIOWrapper

import typer
from typer.models import CommandInfo

from mlops_loop.base.errors import run as run_verb
from mlops_loop.base.project import Project, use
from mlops_loop.base.stage_status import reported
from mlops_loop.cli import (  # noqa: F401 - each adds its verbs
    batch,
    contract,
    data,
    monitoring,
    onboarding,
    prediction_log,
    release,
    serving,
    training,
)
from mlops_loop.cli.groups import APP, LOG, PANELS, SCHEMA


def run(project: Project) -> None:
    """Run the verb that the command line names; the process ends with its exit code."""
    use(project)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that it cannot show must not end a verb
            stream.reconfigure(errors="replace")
    app = named(project.name)
    with reported(" ".join(sys.argv[1:2])):  # to the pipeline run whose stage this verb is
        run_verb(lambda: app(prog_name=project.name))


def named(name: str) -> typer.Typer:
    """Return the command line with the project's name in its examples, and its verbs by panel."""
    panels = {verb: panel for panel, verbs in PANELS.items() for verb in verbs}
    order = list(panels)
    for group in (APP, SCHEMA, LOG):
        for command in group.registered_commands:
            command.epilog = (command.epilog or "").format(example=f"Example: uv run {name}")
    for command in APP.registered_commands:
        command.rich_help_panel = panels[verb_of(command)]
    for added in APP.registered_groups:
        added.rich_help_panel = panels[added.name or ""]
    APP.registered_commands.sort(key=lambda command: order.index(verb_of(command)))
    APP.info.name = name
    return APP


def verb_of(command: CommandInfo) -> str:
    return str(command.name or getattr(command.callback, "__name__", ""))
