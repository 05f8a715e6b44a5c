"""The verbs of `training`: the later stages of the pipeline, search, model card."""

from pathlib import Path
from typing import Annotated

import typer

from mlops_loop.cli.groups import APP


@APP.command(epilog="{example} train")
def train() -> None:
    """Fit the model on the training window and log the run to MLflow."""
    from mlops_loop.training.train import main

    main()


@APP.command(epilog="{example} evaluate")
def evaluate() -> None:
    """Evaluate the model on the test window against the naive baseline."""
    from mlops_loop.training.evaluate import main

    main()


@APP.command(epilog="{example} export")
def export() -> None:
    """Write the bundle; exit code 3 if its predictions differ from the model's."""
    from mlops_loop.training.export import main

    main()


@APP.command(epilog="{example} tune --trials 50 --timeout 3600")
def tune(
    trials: Annotated[int, typer.Option(min=1, help="How many more parameters to try.")] = 20,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no trial begins.")
    ] = None,
) -> None:
    """Search hyperparameters on the training window alone; write the best to params.yaml."""
    from mlops_loop.training.tune import tune

    tune(trials, timeout)


@APP.command(epilog="{example} card > MODEL_CARD.md")
def card() -> None:
    """Print the champion's model card as Markdown; its page is card.html beside it, and at / of the
    API.
    """
    from mlops_loop.base.settings import load_settings
    from mlops_loop.scoring.bundle import open_bundle

    bundle = open_bundle(Path(load_settings().bundle))
    print((bundle.folder / "card.md").read_text(encoding="utf-8"), end="")
