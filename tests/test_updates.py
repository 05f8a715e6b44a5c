"""Updates of a project from its template: they keep what the user wrote."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from answers import ADDED, LINKED, expected, in_template
from conftest import TEMPLATE, TREE, Project, copy_environment, execute, files, path_with

SLUG, PACKAGE = "flight-delays", "flight_delays"
LOOP = "packages/mlops-loop/src/mlops_loop"

# A line that its user adds at the end of each file, and one in the middle of some.
OWN = {
    ".env.example": "# OWN_VARIABLE=1",
    ".gitignore": "/notebooks/scratch/",
    "README.md": "Ask the data team first.",
    "behaviour.yaml": "# ours",
    "dvc.yaml": "# ours",
    "params.yaml": "# ours",
    "pyproject.toml": "# ours",
    "schema.yaml": "# ours",
}
COMPARISON = "reports/comparison.json # of the estimators that `train.model: auto` tried"
OWN_LINES = {
    "dvc.yaml": (f"      - {COMPARISON}", "    meta: {owner: us}"),
    "params.yaml": ("    learning_rate: 0.1", "    l2_regularization: 0.5"),
    "pyproject.toml": ("dependencies = [", "# what src/ imports"),
}
# What a later version of the template changes: old text, new text.
NEW = {
    f"{LOOP}/base/errors.py": ('"""', '"""New in this version. '),
    f"{LOOP}/training/train.py": ('"""', '"""New in this version. '),
    "README.md": ("## ", "New in this version.\n\n## "),
    "dvc.yaml": ("stages:\n", "# New in this version.\nstages:\n"),
    "params.yaml": ("\nmonitor:", "\n# New in this version.\nmonitor:"),
}


def user_files(project: Path) -> dict[str, str]:
    """Return the line that the user adds to each file of his."""
    code = [*project.glob("src/*/*.py"), *project.glob("tests/*.py")]
    return OWN | {path.relative_to(project).as_posix(): "# ours" for path in code}


@dataclass(frozen=True)
class Updated:
    """A template with its repository, a project rendered from it, and what git and cruft need."""

    template: Path
    project: Path
    env: dict[str, str]

    def run(self, cwd: Path, *command: str | Path, code: int | None = 0) -> str:
        done = execute(*command, cwd=cwd, env=self.env)
        assert code is None or done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def commit(self, cwd: Path, message: str) -> None:
        self.run(cwd, "git", "add", "--all")
        self.run(cwd, "git", "commit", "--quiet", "--no-gpg-sign", "--message", message)

    def cruft(self, *command: str, code: int | None = 0) -> str:
        return self.run(self.project, sys.executable, "-m", "cruft", *command, code=code)

    def edit(self) -> None:
        """Change each of the user's files, as a user does, and commit."""
        for name, line in user_files(self.project).items():
            path = self.project / name
            text = path.read_text("utf-8").rstrip("\n") + f"\n{line}\n"
            before, added = OWN_LINES.get(name, ("", ""))
            assert before in text, name
            if before.endswith("["):
                text = text.replace(before, f"{added}\n{before}", 1)
            elif before:
                text = text.replace(before, f"{before}\n{added}", 1)
            path.write_text(text, "utf-8")
        self.commit(self.project, "ours")

    def release(self) -> None:
        """Change what the template owns: texts, a module that is new, one that is gone."""
        tree = self.template / TREE.name
        for name, (old, new) in NEW.items():
            text = (tree / name).read_text("utf-8")
            assert old in text, name
            (tree / name).write_text(text.replace(old, new, 1), "utf-8")
        (tree / LOOP / "base/added.py").write_text('"""Added."""\n', "utf-8")
        (tree / LOOP / "py.typed").unlink()
        self.commit(self.template, "two")


def newest(template: Path) -> None:
    """Write the template as it is into a folder."""
    for part in ("hooks", "templates", TREE.name):
        shutil.rmtree(template / part, ignore_errors=True)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TEMPLATE / part, template / part, ignore=ignore)
    shutil.copy(TEMPLATE / "cookiecutter.json", template)


LATER = "ci", "platform", "orchestrator", "compute"


def before_the_questions(template: Path) -> None:
    """Make a template ask as 1.0.0 did, which had the first answers to some questions only."""
    path = template / "cookiecutter.json"
    asked = json.loads(path.read_text("utf-8"))
    for question in LATER:
        asked[f"__{question}"] = asked.pop(question)[0]
        asked["__prompts__"].pop(question)
    path.write_text(json.dumps(asked), "utf-8")
    for path in (template / "hooks").iterdir():
        text = re.sub(rf'"({"|".join(LATER)})"', r'"__\1"', path.read_text("utf-8"))
        text = re.sub("(?m)^NOW_ASKED = .*", "NOW_ASKED = {}", text).replace(", indent=2", "")
        path.write_text(text, "utf-8")
    for path in (template / TREE.name).rglob("*"):
        if path.is_file() and "packages" not in path.parts:
            text = path.read_text("utf-8")
            named = re.sub(rf"cookiecutter\.({'|'.join(LATER)})\b", r"cookiecutter.__\1", text)
            path.write_text(named, "utf-8")


@pytest.fixture
def updated(tmp_path: Path, request: pytest.FixtureRequest) -> Updated:
    """A project rendered by plain cookiecutter from a repository with a URL.

    A parameter is a function that changes this first version of the template.
    """
    template = tmp_path / "template"
    newest(template)
    getattr(request, "param", lambda template: None)(template)
    config = tmp_path / "config.yaml"
    folders = {"replay_dir": "replay", "cookiecutters_dir": "cookiecutters"}
    config.write_text(json.dumps({k: str(tmp_path / v) for k, v in folders.items()}), "utf-8")
    people = {f"GIT_{who}_NAME": "Tester" for who in ("AUTHOR", "COMMITTER")}
    people |= {f"GIT_{who}_EMAIL": "tester@example.com" for who in ("AUTHOR", "COMMITTER")}
    env = {"PATH": path_with(tmp_path / "bin", "git"), "COOKIECUTTER_CONFIG": str(config), **people}
    made = Updated(template, tmp_path / SLUG, env)
    made.run(template, "git", "init", "--quiet", "--initial-branch=main")
    made.commit(template, "one")
    cookiecutter = sys.executable, "-m", "cookiecutter", f"git+{template.as_uri()}", "--no-input"
    made.run(tmp_path, *cookiecutter, "--output-dir", tmp_path)
    return made


@pytest.mark.slow
def test_an_update_keeps_what_the_user_wrote(updated: Updated) -> None:
    updated.cruft("check")
    updated.edit()
    updated.release()
    updated.cruft("check", code=1)
    updated.cruft("update", "--skip-apply-ask")

    project = updated.project
    assert not [path for path in project.rglob("*.rej") if ".git" not in path.parts]
    for name, line in user_files(project).items():
        text = (project / name).read_text("utf-8")
        assert "<<<<<<<" not in text, name
        assert text.endswith(f"\n{line}\n"), name
        assert OWN_LINES.get(name, ("", ""))[1] in text, name
    for name in NEW:
        assert "New in this version." in (project / name).read_text("utf-8"), name
    assert (project / LOOP / "base/added.py").is_file()
    assert not (project / LOOP / "py.typed").exists()
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    assert params["train"]["gradient_boosting"]["l2_regularization"] == 0.5
    assert yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"]["train"]["meta"]
    updated.cruft("check")


@pytest.mark.slow
def test_only_lines_that_both_changed_are_left_to_the_user(updated: Updated) -> None:
    both = updated.template / TREE.name / "params.yaml", updated.project / "params.yaml"
    updated.edit()
    for path, value in zip(both, ("0.2", "0.3"), strict=True):
        text = path.read_text("utf-8")
        path.write_text(text.replace("learning_rate: 0.1", f"learning_rate: {value}"), "utf-8")
    updated.commit(updated.project, "ours, too")
    updated.release()
    updated.cruft("update", "--skip-apply-ask", code=None)
    left = [path for path in updated.project.rglob("*.rej") if ".git" not in path.parts]
    marked = [
        name
        for name in {*user_files(updated.project), *NEW}
        if "<<<<<<<" in (updated.project / name).read_text("utf-8")
    ]
    assert {path.name for path in left} | set(marked) <= {"params.yaml", "params.yaml.rej"}
    assert left or marked
    for name in NEW.keys() - {"params.yaml"}:
        assert "New in this version." in (updated.project / name).read_text("utf-8"), name


@pytest.mark.slow
def test_a_project_without_the_link_is_linked_by_one_command(updated: Updated) -> None:
    """As docs/migrate.md says; the answers come from .cookiecutter.json."""
    (updated.project / ".cruft.json").unlink()
    updated.commit(updated.project, "not linked")
    kept = json.loads((updated.project / ".cookiecutter.json").read_text("utf-8"))["cookiecutter"]
    answers = {key: value for key, value in kept.items() if not key.startswith("_")}
    url, extra = updated.template.as_uri(), json.dumps(answers)
    updated.cruft("link", url, "--no-input", "--extra-context", extra)
    updated.commit(updated.project, "linked")
    updated.cruft("check")
    updated.release()
    updated.cruft("update", "--skip-apply-ask")
    assert (updated.project / LOOP / "base/added.py").is_file()


def has(updated: Updated, answers: dict[str, str], *left: str) -> None:
    """Assert that the project has the files of these answers, and keeps them."""
    wanted = expected(in_template(), answers) | ADDED | LINKED
    assert files(updated.project) == wanted | set(left)
    linked = json.loads((updated.project / ".cruft.json").read_text("utf-8"))["context"]
    assert answers.items() <= linked["cookiecutter"].items()
    if not left:
        kept = json.loads((updated.project / ".cookiecutter.json").read_text("utf-8"))
        assert answers.items() <= kept["cookiecutter"].items()


@pytest.mark.slow
@pytest.mark.parametrize("updated", [before_the_questions], indirect=True)
def test_a_project_from_before_the_questions_has_the_first_answers(updated: Updated) -> None:
    kept = json.loads((updated.project / ".cookiecutter.json").read_text("utf-8"))["cookiecutter"]
    assert (kept["__ci"], kept["__platform"]) == ("github", "docker-compose")
    assert not kept.keys() & {"ci", "platform"}
    newest(updated.template)
    updated.commit(updated.template, "two")
    updated.edit()
    updated.cruft("update", "--skip-apply-ask")
    # One line in 1.0.0, and the address of the template in it: docs/migrate.md says what to do.
    (updated.project / ".cookiecutter.json.rej").unlink()
    has(updated, {"ci": "github", "platform": "docker-compose"}, ".cookiecutter.json")
    updated.commit(updated.project, "updated")
    updated.cruft("check")


@pytest.mark.slow
def test_an_update_can_change_answers(updated: Updated) -> None:
    """As docs/migrate.md says; and back again."""
    updated.edit()
    change = "update", "--skip-apply-ask", "--variables-to-update"
    other = {"ci": "google-cloud-build", "platform": "kserve"}
    for answers in (other, {"ci": "github", "platform": "docker-compose"}):
        updated.cruft(*change, json.dumps(answers))
        has(updated, answers)
        updated.commit(updated.project, "other answers")
    assert (updated.project / "params.yaml").read_text("utf-8").endswith("# ours\n")


@pytest.mark.slow
def test_after_an_update_the_tests_pass(updated: Updated, installed: Project) -> None:
    updated.edit()
    updated.release()
    updated.cruft("update", "--skip-apply-ask")
    project = Project(updated.project, SLUG, PACKAGE, "")
    copy_environment(installed, project)
    project.uv("pytest", "-n", "2", timeout=1200)
