"""The verbs that make a model and release it. A verb imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from mlops_loop.cli.groups import RELEASE, STAGES, START, Json, verb
from mlops_loop.contract.values import Task


@verb("demo", START, calls="onboarding.demo:demo")
def demo() -> None:
    """Run every step once: pipeline, promotion, server, traffic, monitor."""


@verb("doctor", START, calls="onboarding.doctor:doctor")
def doctor(
    ci: Annotated[bool, Option("--ci", help="What the CI system lacks, in its place.")] = False,
) -> None:
    """Check git, environment, servers, storage and disk; exit code 3 if something is missing."""


@verb("schema infer table.csv --target price --force")
def schema_infer(
    target: Annotated[str, Option(help="The column to predict.")],
    file: Annotated[str | None, Argument(metavar="FILE", help="Any table, or its URL.")] = None,
    timestamp: Annotated[str | None, Option(help="The column to split by; else at random.")] = None,
    task: Annotated[Task | None, Option(help="Instead of what the target suggests.")] = None,
    sql: Annotated[str | None, Option(help="A query instead of a file; needs --url-env.")] = None,
    url_env: Annotated[str | None, Option(help="Variable with the database's URL.")] = None,
    force: Annotated[bool, Option("--force", help="Replace schema.yaml.")] = False,
) -> None:
    """Profile a table; write schema.yaml, and adapt the project to that table."""
    if (file is None) == (sql is None) or (sql is None) != (url_env is None):
        raise typer.BadParameter("give either FILE, or --sql and --url-env")
    from mlops_loop.base.params import Sql
    from mlops_loop.onboarding.infer.main import infer

    source = Sql(sql=sql, url_env=url_env) if sql and url_env else file or ""
    infer(source, target, timestamp, task, force)


@verb("schema check HEAD", calls="contract.compatibility:check")
def schema_check(
    old: Annotated[str, Argument(help="A file, a git revision, or REVISION:PATH.")],
    new: Annotated[str, Argument(help="As OLD.")] = "schema.yaml",
) -> None:
    """List what a change of the contract breaks; exit code 3 if it breaks the API's clients."""


@verb("schema export --statistics train.pb", calls="onboarding.formats:export")
def schema_export(
    file: Annotated[Path, Argument(metavar="FILE", help=".pbtxt or .pb")] = Path("schema.pbtxt"),
    statistics: Annotated[
        Path | None, Option(help="A file for those of the training window.")
    ] = None,
    form: Annotated[Literal["tfmd"], Option("--format", help="TensorFlow Metadata.")] = "tfmd",
) -> None:
    """Write the contract as TFX's tools read it, and statistics of the training window."""


@verb("schema import schema.pbtxt --target price", calls="onboarding.formats:import_")
def schema_import(
    file: Annotated[Path, Argument(metavar="FILE", help="A schema of TFX: .pbtxt or .pb")],
    target: Annotated[str | None, Option(help="If FILE does not say what is predicted.")] = None,
    timestamp: Annotated[str | None, Option(help="The column to split by.")] = None,
    task: Annotated[Task | None, Option(help="Instead of what the target suggests.")] = None,
    force: Annotated[bool, Option("--force", help="Replace schema.yaml.")] = False,
) -> None:
    """Write schema.yaml from a TensorFlow Metadata schema; what it cannot hold is named."""


def add_stage(name: str, room: str, text: str) -> None:
    @verb(name, STAGES, calls=f"{room}.{name}:main", text=text)
    def stage() -> None: ...


add_stage("ingest", "data", "Read the source into data/raw.parquet.")
add_stage("validate", "data", "Check the data against the contract; exit code 3 if it breaks it.")
add_stage("split", "data", "Split the rows into training, validation and test windows.")
add_stage("train", "training", "Fit the model on the training window and log the run to MLflow.")
add_stage("evaluate", "training", "Evaluate the model on the test window against the baseline.")
add_stage("export", "training", "Write the bundle; exit code 3 if it predicts something else.")


@verb("tune --trials 50 --timeout 3600", RELEASE, calls="training.tune:tune")
def tune(
    trials: Annotated[int, Option(min=1, help="How many more parameters to try.")] = 20,
    timeout: Annotated[float | None, Option(min=0, help="Seconds in which they begin.")] = None,
) -> None:
    """Search hyperparameters on the training window alone; write the best to params.yaml."""


@verb("promote", RELEASE)
def promote(as_json: Json = False) -> None:
    """Make the bundle champion if it passes every gate; exit code 3 if one refuses it."""
    from mlops_loop.release.promote import print_gates, promote

    promotion = promote()
    if as_json:
        print(promotion.model_dump_json(indent=2))
    else:
        print_gates(promotion.gates)
    promotion.checked()
    if not as_json:
        print(promotion.text)


@verb("rollback --reason 'too many alarms'", RELEASE)
def rollback(
    version: Annotated[str | None, Argument(help="[default: the last former champion]")] = None,
    reason: Annotated[str, Option(help="For the audit log.")] = "",
) -> None:
    """Make a former champion champion again; a running server reloads it."""
    from mlops_loop.release.champion import roll_back

    print(f"version {roll_back(version, reason)} is champion again")


@verb("card > MODEL_CARD.md", RELEASE)
def card() -> None:
    """Print the champion's model card as Markdown; its page is beside it, and at / of the API."""
    from mlops_loop.base.settings import load_settings
    from mlops_loop.scoring.bundle import open_bundle

    bundle = open_bundle(Path(load_settings().bundle))
    print((bundle.folder / "card.md").read_text(encoding="utf-8"), end="")


@verb("audit --last 100", RELEASE, calls="release.audit:show_audit")
def audit(
    last: Annotated[int, Option(min=0, help="How many lines to show.")] = 20,
    as_json: Json = False,
) -> None:
    """List promotions, refusals and rollbacks; exit code 3 if a line was tampered with."""


@verb("trace 3f0c9b7a5d4e4f1c8a2b6d7e8f901234", RELEASE, calls="release.trace:trace")
def trace(prediction_id: Annotated[str, Argument(help="As the API answered it.")]) -> None:
    """Show what a prediction was made by: version, run, commit, data, parameters, promotion."""


@verb("reproduce 3", RELEASE, calls="release.reproduce:reproduce")
def reproduce(version: Annotated[str, Argument(help="A registered version.")]) -> None:
    """Build a version again from its commit and data; exit code 3 if anything differs."""
