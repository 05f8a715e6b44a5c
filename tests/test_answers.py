"""Every combination of answers: its files are complete, valid, clean, and of no other answer."""

import json
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from answers import (
    ADDED,
    LINKED,
    AnyTag,
    Projects,
    all_projects,
    below,
    expected,
    first,
    in_template,
)
from conftest import QUESTIONS, TEMPLATE, Bake, execute, files
from test_docs import inline

# All projects of all answers take twenty seconds to render.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("answers")]
MARKS = re.compile(r"{{-?\s*cookiecutter|{%|(?<!\$){{\s*\w+\.")
# The key is its user's; for the others deliver.sh looks whether they are there.
PLANNED = ["deploy/cosign.pub", "deploy/kubernetes/components/jobs", "deploy/seldon/Dockerfile"]
# Who says so beside a path may name a file that only this answer has.
SAYS_SO = {
    "GitHub": ("ci", "github"),
    "Google": ("ci", "google-cloud-build"),
    "AWS": ("ci", "aws-codepipeline"),
    "Compose": ("platform", "docker-compose"),
    "Kubernetes": ("platform", "kubernetes"),
    "KServe": ("platform", "kserve"),
    "Seldon": ("platform", "seldon"),
    "Kubeflow": ("orchestrator", "kubeflow"),
    "Ray": ("compute", "ray"),
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Projects:
    """Return the projects of the full product of the answers. Leave them as they are."""
    return all_projects(tmp_path_factory)


@pytest.fixture(scope="module")
def texts(projects: Projects) -> list[tuple[Path, str]]:
    """Return each text once under each name, however many projects have it."""
    seen: dict[str, set[bytes]] = defaultdict(set)
    found = []
    for project in projects:
        for name in sorted(files(project)):
            content = (project / name).read_bytes()
            if content not in seen[name]:
                seen[name].add(content)
                found.append((project / name, content.decode("utf-8")))
    return found


Texts = list[tuple[Path, str]]


def test_each_has_its_files_and_no_others(projects: Projects) -> None:
    names = in_template()
    assert len(projects) == 126
    for project, answers in projects.items():
        wanted = expected(names, answers) | ADDED
        assert files(project) - LINKED == wanted, answers


def test_no_empty_folder_is_left(projects: Projects) -> None:
    for project in projects:
        folders = [path for path in project.rglob("*") if path.is_dir()]
        assert [path for path in folders if not any(path.iterdir())] == []


def test_no_template_marks_are_left(texts: Texts) -> None:
    for path, text in texts:
        if path.name not in ADDED and "/reporting/templates/" not in path.as_posix():
            assert not MARKS.search(text), path


def test_the_answers_are_kept(projects: Projects) -> None:
    for project, answers in projects.items():
        kept = json.loads((project / ".cookiecutter.json").read_text("utf-8"))["cookiecutter"]
        assert {key: kept[key] for key in answers} == answers


def test_files_parse(texts: Texts) -> None:
    for path, text in texts:
        try:
            match path.suffix:
                case ".py":
                    compile(text, path, "exec")
                case ".toml":
                    tomllib.loads(text)
                case ".json":
                    json.loads(text)
                case ".yaml" | ".yml":
                    list(yaml.load_all(text, AnyTag))
        except (ValueError, SyntaxError, yaml.YAMLError) as error:
            pytest.fail(f"{path}: {error}")


def test_shell_scripts_parse(texts: Texts) -> None:
    found = [(path, text) for path, text in texts if path.suffix == ".sh"]
    assert {path.name for path, _ in found} >= {"deliver.sh", "release.sh"}
    for path, text in found:
        shell = re.match(r"#!(?:/usr/bin/env |/bin/)(sh|bash)\n", text)
        assert shell or not text.startswith("#!"), f"{path}: which shell?"
        # Without such a line another script of sh reads it.
        done = execute(shell[1] if shell else "sh", "-n", path, cwd=path.parent)
        assert done.returncode == 0, done.stderr


def test_dockerfiles_are_clean(texts: Texts) -> None:
    found = [path for path, _ in texts if "Dockerfile" in (path.name, path.suffix[1:])]
    assert found
    done = execute("hadolint", *found, cwd=TEMPLATE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_python_is_clean(projects: Projects, command: str) -> None:
    """By each project's own rules; the package's are seen to in place."""
    ruff = sys.executable, "-m", "ruff", *command.split(), "--no-cache"
    folder = next(iter(projects)).parent.parent
    done = execute(*ruff, "--extend-exclude", "packages", folder, cwd=folder)
    assert done.returncode == 0, done.stdout


def test_what_texts_name_exists(projects: Projects) -> None:
    """Paths of a project's own folders, and links between its pages."""
    named = re.compile(r"(?<![\w/.{}-])((?:deploy|docs|\.github)/[\w./-]*+)(?![*$<])")
    wrong = set()
    for project, answers in projects.items():
        if answers["task"] != first("task"):
            continue
        own = set((project / "docs").glob("*.md"))
        own |= {path for path in (project / "deploy").rglob("*") if path.is_file()}
        for page in {*own, project / "README.md", project / ".env.example"}:
            text = page.read_text("utf-8")
            for line in text.splitlines():
                theirs = [answer for word, answer in SAYS_SO.items() if word in line]
                if all(answer in answers.items() for answer in theirs):
                    for path in (found.rstrip("./-") for found in named.findall(line)):
                        if not (project / path).exists() and not below({path}, PLANNED):
                            wrong.add(f"{page.relative_to(project)}: {path} ({answers})")
            links = [str(token.attrGet("href") or "") for token in inline(text)]
            for link in links if page.suffix == ".md" else ():
                path = link.partition("#")[0]
                there = (page.parent / path).exists() or f"docs/{Path(path).name}" in PLANNED
                if path and "://" not in path and not there:
                    wrong.add(f"{page.relative_to(project)}: {link} ({answers})")
    assert not wrong, "\n".join(sorted(wrong))


# How they are asked, and what is refused


ASKED = "task", "ci", "platform", "orchestrator", "compute"


def test_each_choice_by_its_number(bake: Bake) -> None:
    """As typed: the last choice of each question with choices."""
    last = {key: QUESTIONS[key] for key in ("license", *ASKED)}
    typed = "".join(f"{len(choices)}\n" for choices in last.values())
    project = bake(input="\n" * 5 + typed)
    kept = json.loads((project.path / ".cookiecutter.json").read_text("utf-8"))["cookiecutter"]
    assert {key: kept[key] for key in last} == {key: value[-1] for key, value in last.items()}
    number = sum(not key.startswith("_") for key in QUESTIONS)
    asked = re.findall(rf"\[\d+/{number}\] (.*?)(?: \(|\n)", project.said)
    assert asked[-5:] == [QUESTIONS["__prompts__"][key]["__prompt__"] for key in ASKED]


def test_the_last_lines_say_what_comes_next(bake: Bake) -> None:
    said = bake(ci="google-cloud-build", platform="kserve").said.splitlines()
    assert said[-1].strip() == "uv run flight-delays doctor --ci"
