"""The verbs `kubeflow ...`."""

import typer

VERBS = typer.Typer(help="The pipeline as a Kubeflow pipeline.")
