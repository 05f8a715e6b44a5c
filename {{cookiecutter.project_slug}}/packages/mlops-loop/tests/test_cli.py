import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_loop.base import files
from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Failure, Refusal, run
from mlops_loop.base.params import Gates, Monitor, Params, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.cli.app import named
from mlops_loop.cli.groups import APP, LOG, SCHEMA
from mlops_loop.contract.schema import load_schema

from .conftest import ROOT


def test_help_lists_the_verbs_and_each_has_an_example() -> None:
    app = named("churn")
    listed = CliRunner().invoke(app, ["--help"]).output.split()
    for words, group in {(): APP, ("schema",): SCHEMA, ("log",): LOG}.items():
        for command in group.registered_commands:
            verb = command.name or command.callback.__name__
            assert {*words, verb} & {*listed}
            shown = CliRunner().invoke(app, [*words, verb, "--help"]).output
            assert f"Example: uv run churn {' '.join([*words, verb])}" in " ".join(shown.split())


def modules_after(*imports: str) -> set[str]:
    """Return what is loaded after some modules of the loop, in a process of its own."""
    code = f"import sys, {', '.join(f'mlops_loop.{name}' for name in imports)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_and_the_server_load_nothing_heavy() -> None:
    heavy = {"mlflow", "pandas", "sklearn", "evidently", "dvc", "pyarrow"}
    assert not heavy & modules_after("cli.app", "serving.app")


def test_moving_the_champion_loads_only_what_it_needs() -> None:
    heavy = {"skops", "skl2onnx", "matplotlib"}
    assert not heavy & modules_after("release.promote")
    heavy |= {"mlflow", "pandas", "pyarrow", "sklearn"}
    assert not heavy & modules_after("release.champion", "release.audit", "release.trace")


ENDS = [
    (Failure("x"), 1, "error: x"),
    (Refusal("x"), 3, "refused: x"),
    (OSError("x"), 1, "error: x"),
]


@pytest.mark.parametrize(("error", "code", "line"), ENDS)
def test_exit_codes(error, code, line, capsys) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith(line)


def test_a_mistake_in_a_file_is_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.PARAMS.write_text("ingest:\n  source: own.csv\nmonitor:\n  day: 3\n")
    with pytest.raises(Failure, match=r"params\.yaml, line 4: monitor\.day: Extra inputs"):
        load_params()
    files.SCHEMA.write_text("columns:\n  a:\n    type: number\n    nulable: true\n")
    with pytest.raises(Failure, match=r"schema\.yaml, line 4: columns\.a\.nulable: Extra inputs"):
        load_schema()
    Path(".env").write_text("PREDICTION_LOG=x")
    with pytest.raises(Failure, match=r"PREDICTION_LOG: .*known are .*PREDICTION_LOG_URL"):
        load_settings()


def test_a_registry_of_an_earlier_version_stays_in_use(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert load_settings().mlflow_tracking_uri == "sqlite:///.mlflow/mlflow.db"
    Path("mlflow.db").touch()
    assert load_settings().mlflow_tracking_uri == "sqlite:///mlflow.db"


def test_a_shortened_params_yaml_has_the_defaults_which_are_those_of_the_example() -> None:
    text = "ingest: {source: own.csv}\ntrain:\n  svm: {C: 2}\nmonitor: {days: 3}\n"
    params = parse_yaml(text, "params.yaml", Params)
    assert params.train.sections == {"svm": {"C": 2}}
    assert params.monitor == Monitor(days=3)
    assert params.gates == Gates()
    assert None not in params.gates.model_dump().values()
    example = parse_yaml((ROOT / files.PARAMS).read_text("utf-8"), "params.yaml", Params)
    for section in ("export", "retrain"):
        assert getattr(example, section) == getattr(params, section)
    for section in ("gates", "monitor"):  # whose values differ by task
        given = getattr(example, section).model_dump()
        assert given.keys() == getattr(params, section).model_dump().keys()
