"""What this project plugs into the loop, as "module:function": loaded when it is needed."""

import mlops_loop

PROJECT = mlops_loop.Project(
    name="{{ cookiecutter.project_slug }}",
    reader="{{ cookiecutter.__package_name }}.ingest:read",
    derive="{{ cookiecutter.__package_name }}.features:derive",
    model="{{ cookiecutter.__package_name }}.model:build",
    candidates="{{ cookiecutter.__package_name }}.model:candidates",
    search_space="{{ cookiecutter.__package_name }}.model:search_space",
    trusted_types="{{ cookiecutter.__package_name }}.model:TRUSTED_TYPES",
)


def main() -> None:
    """Run a verb of the command line."""
    mlops_loop.run(PROJECT)
