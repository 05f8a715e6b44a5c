"""The verbs of `data`: the first stages of the pipeline."""

from mlops_loop.cli.groups import APP


@APP.command(epilog="{example} ingest")
def ingest() -> None:
    """Read the source into data/raw.parquet."""
    from mlops_loop.data.ingest import main

    main()


@APP.command(epilog="{example} validate")
def validate() -> None:
    """Check the data against the contract; exit code 3 if it breaks it."""
    from mlops_loop.data.validate import main

    main()


@APP.command(epilog="{example} split")
def split() -> None:
    """Split the rows into training, validation and test windows."""
    from mlops_loop.data.split import main

    main()
