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
from mlops_loop.cli.groups import APP, GROUPS
from mlops_loop.contract.schema import load_schema

from .conftest import ROOT


def test_help_lists_the_verbs_and_each_has_an_example() -> None:
    app = named("churn")
    listed = CliRunner().invoke(app, ["--help"]).output.split()
    assert {*GROUPS, *(command.name for command in APP.registered_commands)} <= {*listed}
    for words, group in {"": APP, **GROUPS}.items():
        for command in group.registered_commands:
            verb = [*words.split(), command.name]
            shown = CliRunner().invoke(app, [*verb, "--help"]).output
            assert f"Example: uv run churn {' '.join(verb)}" in " ".join(shown.split())


HEAVY = {"mlflow", "pandas", "pyarrow", "sklearn"}
LIGHT = [
    (("cli.app", "serving.app"), HEAVY | {"evidently", "dvc"}),
    (("release.promote",), {"skops", "skl2onnx", "matplotlib"}),
    (("release.champion", "release.audit", "release.trace"), HEAVY | {"skops"}),
]


@pytest.mark.parametrize(("modules", "heavy"), LIGHT)
def test_what_must_be_fast_loads_nothing_heavy(modules, heavy) -> None:
    names = ", ".join(f"mlops_loop.{name}" for name in modules)
    code = f"import sys, {names}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & {*done.stdout.split()}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Failure("x"), 1, "error: x"),
        (Refusal("x"), 3, "refused: x"),
        (OSError("x"), 1, "error: x"),
    ],
)
def test_exit_codes(error, code, line, capsys) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith(line)


MISTAKES = [
    (
        files.PARAMS,
        "ingest:\n  source: a.csv\nmonitor:\n  day: 3\n",
        r"line 4: monitor\.day: Extra",
    ),
    (files.PARAMS, "split:\n  seed: 0\n  seed: 1\n", r"line 3: the key 'seed' is there twice"),
    (files.SCHEMA, "columns:\n  a:\n    type: id\n    nul: 1\n", r"line 4: columns\.a\.nul: Extra"),
    (Path(".env"), "PREDICTION_LOG=x", r"PREDICTION_LOG: .*known are .*PREDICTION_LOG_URL"),
]


@pytest.mark.parametrize(("path", "text", "said"), MISTAKES)
def test_a_mistake_in_a_file_is_one_line(tmp_path, monkeypatch, path, text, said) -> None:
    monkeypatch.chdir(tmp_path)
    path.write_text(text)
    load = {files.PARAMS: load_params, files.SCHEMA: load_schema}.get(path, load_settings)
    with pytest.raises(Failure, match=rf"^{path}.*{said}"):
        load()


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
    example = parse_yaml((ROOT / files.PARAMS).read_text("utf-8"), "params.yaml", Params)
    for section in ("export", "retrain"):
        assert getattr(example, section) == getattr(params, section)
    for section in ("gates", "monitor"):  # whose values differ by task
        given = getattr(example, section).model_dump()
        assert given.keys() == getattr(params, section).model_dump().keys()
        assert None not in given.values()
