"""The stages of dvc.yaml: each depends on what makes its result, no less and no more."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from conftest import TREE, Project, copy

SOURCE = TREE / "packages/mlops-loop/src"
PACKAGE = "packages/mlops-loop/src/mlops_loop"
TEMPLATES = SOURCE / "mlops_loop/reporting/templates"
STAGES = {
    "ingest": "data.ingest",
    "validate": "data.validate",
    "split": "data.split",
    "train": "training.train",
    "evaluate": "training.evaluate",
    "export": "training.export",
}

# Modules that a stage imports and that do not change what it writes.
PLUMBING = {
    "base.code_hash": "says which code a model comes from",
    "base.compute": "runs the same work on a cluster",
    "base.config": "reads YAML and says which line is wrong",
    "base.errors": "exit codes",
    "base.files": "paths, and writing a file whole or not at all",
    "base.project": "finds the functions that project.py names",
    "base.settings": "reads the environment",
    "tracking": "records a run in MLflow, which is no output of a stage",
}
# The bundle's manifest holds the hash of the code that made its model.
HASHED = {"export": ("ingest", "validate", "split", "train")}


def module_file(name: str) -> Path | None:
    """Return the file of a module or package, if there is one of that name."""
    path = SOURCE.joinpath(*name.split("."))
    candidates = path / "__init__.py", path.with_suffix(".py")
    return next((file for file in candidates if file.is_file()), None)


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported_nodes(tree: ast.AST) -> Iterator[ast.ImportFrom | ast.Import]:
    """Yield what a module imports when it runs, inside its functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not is_typing_only(node):
            yield from imported_nodes(node)


def imports(name: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    file = module_file(name)
    assert file, f"there is no module {name}"
    found = set()
    for node in imported_nodes(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {full if module_file(full) else node.module for full in names}
    return {name for name in found if name.startswith("mlops_loop.")}


def closure(name: str) -> set[str]:
    """Return a module and all that it imports, as names below the package."""
    seen, waiting = set[str](), [f"mlops_loop.{name}"]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imports(module)
    return {module.removeprefix("mlops_loop.") for module in seen}


def test_modules_import_in_no_circle_not_by_delay_either() -> None:
    """Rules on rooms do not see circles inside one."""
    paths = [path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    graph = {name: imports(name) for name in names if name != "mlops_loop"}
    assert len(graph) > 100
    TopologicalSorter(graph).prepare()  # CycleError names the modules of a circle


def left_out(module: str) -> bool:
    """Say whether a module is on the list of those that change no output of a stage."""
    return any(f"{module}.".startswith(f"{entry}.") for entry in PLUMBING)


def is_page(module: str) -> bool:
    """Say whether a module is about how a page looks: its hash is in no manifest."""
    return module.startswith("reporting.") or module.endswith("_page")


def templates(names: set[str]) -> set[Path]:
    """Return the templates of pages that modules name, and all that those include."""
    found, waiting = set[Path](), [module_file(f"mlops_loop.{name}") for name in names]
    while waiting:
        file = waiting.pop()
        text = file.read_text("utf-8") if file else ""
        named = {TEMPLATES / name for name in re.findall(r'"([a-z_]+\.(?:html|md|css))"', text)}
        waiting += [path for path in named - found if path.is_file()]
        found |= {path for path in named if path.is_file()}
    return found


def wanted(stage: str) -> list[str]:
    """Return the package's files that the result of a stage comes from, as dvc.yaml names them."""
    needed = {
        module
        for made in (stage, *HASHED.get(stage, ()))
        for module in closure(STAGES[made])
        if not left_out(module) and (made == stage or not is_page(module))
    }
    files = {module_file(f"mlops_loop.{module}") for module in needed}
    files |= templates(
        needed - {"reporting.page"}
    )  # it also writes the overview, which is no output
    code = {file.relative_to(TREE).as_posix() for file in files if file and file.stat().st_size}
    return sorted(path for path in code if not path.endswith("/__init__.py"))


def listed(project: Path, stage: str) -> list[str]:
    """Return the package's files among the dependencies of a stage."""
    stages = yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"]
    return [dep for dep in stages[stage]["deps"] if dep.startswith("packages/")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_modules_that_make_its_result(rendered: Project, stage: str) -> None:
    lines = "\n".join(f"      - {path}" for path in wanted(stage))
    assert listed(rendered.path, stage) == wanted(stage), (
        f"run `make stages`, or write in dvc.yaml:\n{lines}"
    )


def test_what_is_left_out_exists_and_is_imported() -> None:
    imported = {module for name in STAGES.values() for module in closure(name)}
    for entry in PLUMBING:
        assert any(f"{module}.".startswith(f"{entry}.") for module in imported), entry


# A module of each group, and the stages that a changed line in it starts.
CHANGES: list[tuple[str, Iterable[str]]] = [
    ("data/source/csv_file.py", ["ingest", "export"]),
    ("data/cast.py", STAGES),
    ("data/data_checks.py", ["validate", "export"]),
    ("data/split.py", ["validate", "split", "export"]),
    ("training/train.py", ["train", "export"]),
    ("training/evaluate.py", ["evaluate"]),
    ("training/behaviour.py", ["evaluate"]),
    ("training/explain.py", ["evaluate"]),
    ("training/card/compose.py", ["export"]),
    ("training/export.py", ["export"]),
    ("training/tune.py", []),
    ("metrics/fairness.py", ["evaluate"]),
    ("metrics/classification.py", ["train", "evaluate", "export"]),
    ("scoring/predictions.py", ["evaluate", "export"]),  # it labels the rows of behaviour.csv
    ("scoring/scorer.py", ["export"]),
    ("base/params.py", STAGES),
    ("base/settings.py", []),  # what the server is told
    ("contract/schema.py", STAGES),
    ("contract/compatibility.py", []),
    ("batch/score.py", []),
    ("monitoring/monitor.py", []),
    ("onboarding/infer/main.py", []),
    ("prediction_log/writing/writer.py", []),
    ("release/promote.py", []),
    ("serving/app.py", []),
    ("cli/build.py", []),
]
OWN_CHANGES: list[tuple[str, Iterable[str]]] = [
    ("src/flight_delays/flights.py", ["ingest", "export"]),
    ("src/flight_delays/ingest.py", ["ingest", "export"]),
    ("src/flight_delays/model.py", ["train", "evaluate", "export"]),
    ("behaviour.yaml", ["evaluate", "export"]),
    ("schema.yaml", STAGES),
    ("src/flight_delays/features.py", STAGES.keys() - {"ingest"}),
    ("src/flight_delays/project.py", STAGES),  # it names what any of them plugs in
    ("README.md", []),
    ("tests/test_model.py", []),
]
# `dvc status` after a line more in each file, all in one process.
STATUS = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

assert Repo().status() == {}
found = {}
for path in map(Path, sys.argv[1:]):
    before = path.read_bytes()
    path.write_bytes(before + b"# changed\\n")
    found[path.as_posix()] = list(Repo().status())
    path.write_bytes(before)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_changed_line_starts_the_stages_that_it_changes(
    pipeline: Project, tmp_path: Path
) -> None:
    project = copy(pipeline, tmp_path)
    python = pipeline.path / ".venv/bin/python"  # only asks, so it need not be the project's own
    changes = [(f"{PACKAGE}/{name}", stages) for name, stages in CHANGES] + OWN_CHANGES
    expected = {name: set(stages) for name, stages in changes}
    found = json.loads(project.run(python, "-c", STATUS, *expected).stdout)
    assert {name: set(stages) for name, stages in found.items()} == expected


def rewritten(text: str) -> str:
    """Return dvc.yaml with the package's files that each stage needs."""
    lines, stage = list[str](), ""
    for line in text.splitlines(keepends=True):
        if name := re.fullmatch(r"  (\w+):\n", line):
            stage = name[1]
        if not line.startswith(f"      - {PACKAGE}/"):
            lines.append(line)
        elif stage:
            lines += [f"      - {path}\n" for path in wanted(stage)]
            stage = ""
    return "".join(lines)


if __name__ == "__main__":  # `make stages`
    pipeline_file = TREE / "dvc.yaml"
    pipeline_file.write_text(rewritten(pipeline_file.read_text("utf-8")), "utf-8")
