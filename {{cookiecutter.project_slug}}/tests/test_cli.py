import subprocess
import sys

import pytest
from typer.testing import CliRunner

from {{ cookiecutter.__package_name }}.cli import app
from {{ cookiecutter.__package_name }}.errors import Failure, Refusal, run
from {{ cookiecutter.__package_name }}.params import load_params
from {{ cookiecutter.__package_name }}.schema import load_schema
from {{ cookiecutter.__package_name }}.settings import load_settings


def test_help_lists_the_verbs_and_each_has_an_example() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    for verb in ("demo", "promote", "serve", "monitor"):
        assert verb in shown
        assert verb in CliRunner().invoke(app, [verb, "--help"]).output.split("Example:")[1]


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, {{ cookiecutter.__package_name }}.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not {"mlflow", "pandas", "sklearn", "evidently", "fastapi", "dvc"} & set(loaded.split())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(Failure("x"), 1, "error: x"), (Refusal("x"), 3, "refused: x"), (OSError("x"), 1, "error: x")],
)
def test_exit_codes(error, code, line, capsys) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("params.yaml", "seed:", "sed:", r"params\.yaml: train\."),
        ("params.yaml", "split:", "split: [", r"params\.yaml is not valid YAML"),
        ("schema.yaml", "nullable:", "nulable:", r"schema\.yaml: columns\..*nulable"),
        ("schema.yaml", "target: arrival", "target: carrier", "role target belongs to 'carrier'"),
        (".env", "", "PREDICTION_LOG=x", "PREDICTION_LOG: .*known are .*PREDICTION_LOG_URL"),
        (".env", "", "API_KEYS=secret", "name:key,name:key"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(project, file, old, new, said) -> None:
    text = (project / file).read_text() if old else ""
    (project / file).write_text(text.replace(old, new))
    with pytest.raises(Failure, match=said):
        (load_params(), load_schema(), load_settings().keys())
