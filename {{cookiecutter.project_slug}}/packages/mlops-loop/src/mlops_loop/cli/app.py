"""The command line: every verb. Heavy libraries are imported by the verb that needs them."""

from mlops_loop.base.errors import run as run_verb
from mlops_loop.base.project import Project, use
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
from mlops_loop.cli.groups import APP, LOG, SCHEMA


def run(project: Project) -> None:
    """Run the verb that the command line names; the process ends with its exit code."""
    use(project)
    name = project.name
    for group in (APP, SCHEMA, LOG):
        for command in group.registered_commands:
            command.epilog = (command.epilog or "").format(example=f"Example: uv run {name}")
    APP.info.name = name
    run_verb(lambda: APP(prog_name=name))
