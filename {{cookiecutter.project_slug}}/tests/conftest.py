"""What the tests share: this project's pipeline, run once on a sample of its rows."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from mlops_loop.testing import Sample, run_on_sample

from {{ cookiecutter.__package_name }}.project import PROJECT


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Every stage, from the source to the bundle, on some 5,000 rows."""
    return run_on_sample(PROJECT, tmp_path_factory.mktemp("sample"), rows=5000)


@pytest.fixture
def client(sample: Sample) -> Iterator[TestClient]:
    """A client of the API, which serves the bundle of the sample."""
    with sample.api() as client:
        yield client
