"""The command line, for the project whose console script runs."""

import sys
from importlib.metadata import entry_points
from io import TextIOWrapper

import typer

from mlops_loop.base.errors import run as run_verb
from mlops_loop.base.pipeline import reported
from mlops_loop.base.project import Project, use
from mlops_loop.cli import build, operate  # noqa: F401 - they add the verbs, in this order
from mlops_loop.cli.groups import APP, GROUPS, NAME


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
    """Return the command line with the project's name in its examples, and packages' own verbs."""
    for added in entry_points(group="mlops_loop.verbs"):
        APP.add_typer(added.load(), name=added.name, no_args_is_help=True)  # it is in GROUPS now
    for group in (APP, *GROUPS.values()):
        for command in group.registered_commands:
            command.epilog = str(command.epilog).replace(NAME, name)
    APP.info.name = name
    return APP
