"""The answers that can be given, and what a project of them holds."""

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import post_gen_project as post
import pre_gen_project as pre
import pytest
import yaml
from conftest import QUESTIONS, TEMPLATE, TREE, WORKER, execute, path_with
from filelock import FileLock

# The licence is one file, whatever the others are.
PRODUCT = "ci", "platform", "task", "orchestrator", "compute"
ADDED = {".cookiecutter.json"}
LINKED = {".cruft.json"}  # where the template is a repository with a URL

RENDER = """
import json, sys
from cookiecutter.main import cookiecutter

template, config, given = sys.argv[1], sys.argv[2], json.load(sys.stdin)
for folder, answers in given.items():
    options = {"no_input": True, "config_file": config, "output_dir": folder}
    cookiecutter(template, extra_context=answers, **options)
"""


def first(question: str) -> str:
    """Return the default of a question with choices."""
    return str(QUESTIONS[question][0])


def every() -> Iterator[dict[str, str]]:
    """Yield the full product of the answers, less what makes no sense."""
    for values in product(*(QUESTIONS[question] for question in PRODUCT)):
        answers = dict(zip(PRODUCT, values, strict=True))
        if not any(together.items() <= answers.items() for together, _ in pre.NONSENSE):
            yield answers


def in_template() -> set[str]:
    """Return the files of the template's tree as git sees them, under their rendered names."""
    git = "git", "ls-files", "--cached", "--others", "--exclude-standard", "."
    listed = execute(*git, cwd=TREE).stdout.splitlines()
    names = {name for name in listed if (TREE / name).exists()}
    return {name.replace("{{cookiecutter.__package_name}}", "flight_delays") for name in names}


def expected(names: set[str], answers: Mapping[str, str]) -> set[str]:
    """Return what a project of these answers holds of the template's files.

    That is all, less what other answers hold; then each file that has a place of its own is there.
    """
    held = set(names)
    for question in {question for question, _ in post.ONLY}:
        paths = {answer: post.ONLY.get((question, answer), []) for answer in QUESTIONS[question]}
        mine = below(names, paths[answers.get(question, first(question))])
        held -= below(names, [path for of_one in paths.values() for path in of_one]) - mine
    for question, answer in answers.items():
        for source, target in post.MOVED.get((question, answer), {}).items():
            if source in held:
                held = held - {source} | {target}
    return held


def below(names: set[str], paths: list[str]) -> set[str]:
    """Return the names that are one of the paths, or below it."""
    return {name for name in names if any(f"{name}/".startswith(f"{path}/") for path in paths)}


Projects = dict[Path, dict[str, str]]


def all_projects(factory: pytest.TempPathFactory) -> Projects:
    """Return the projects of the full product, which one of pytest's workers renders."""
    base = factory.getbasetemp()
    base = base.parent if WORKER else base
    with FileLock(base / "answers.lock"):
        config, programs = base / "answers.yaml", base / "no-programs"
        config.write_text(json.dumps({"replay_dir": str(base / "replays")}), "utf-8")
        path = str(programs) if programs.exists() else path_with(programs)
        return render(base / "answers", config, path)


class AnyTag(yaml.SafeLoader):
    """Reads CloudFormation's `!Ref` and the like, too."""


def untagged(loader: AnyTag, suffix: str, node: yaml.Node) -> Any:
    match node:
        case yaml.ScalarNode():
            return loader.construct_scalar(node)
        case yaml.SequenceNode():
            return loader.construct_sequence(node)
        case _:
            return loader.construct_mapping(node)  # type: ignore[arg-type]


AnyTag.add_multi_constructor("!", untagged)


def render(into: Path, config: Path, path: str) -> Projects:
    """Render the full product, without lock and commit, in one process: as quick as it can be."""
    folders = {into / "-".join(answers.values()): answers for answers in every()}
    if not into.exists():
        given = json.dumps({str(folder): answers for folder, answers in folders.items()})
        command = sys.executable, "-c", RENDER, TEMPLATE, config
        done = execute(*command, cwd=TEMPLATE, env={"PATH": path}, input=given)
        assert done.returncode == 0, done.stderr
    return {folder / "flight-delays": answers for folder, answers in folders.items()}
