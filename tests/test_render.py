"""The rendered project as files: complete, valid, clean, and nothing beside it."""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import post_gen_project as post
import pytest
import yaml
from answers import ADDED, LINKED, expected, first, in_template
from conftest import (
    QUESTIONS,
    TEMPLATE,
    TREE,
    Bake,
    Project,
    Refused,
    entries,
    execute,
    files,
    path_with,
)
from markdown_it import MarkdownIt

ODD = 'Zoë\'s "Fly\\by" <b>*_`[ 東京 🛫 ß\\n'
IGNORED = """data/x build/x reports/x .mlflow/mlflow.db .mlflow/mlruns/x mlflow.db mlruns/x
    predictions.db predictions.db-wal tune.db .env .venv/x .dvc-remote/x .ruff_cache/x
    src/x/__pycache__/x .coverage"""


# What the first answers of all questions hold.
DEFAULT = {key: first(key) for key in ("ci", "platform", "orchestrator", "compute")}


def in_project() -> set[str]:
    """Return the files of the default project that come from the template."""
    return expected(in_template(), DEFAULT)


def text_files(root: Path) -> dict[str, str]:
    """Return names and texts of the files."""
    return {name: (root / name).read_text("utf-8") for name in sorted(files(root))}


def test_the_files_are_those_of_the_template_and_the_answers(rendered: Project) -> None:
    assert files(rendered.path) - LINKED == in_project() | ADDED
    # The names that the documentation and the tools of others rely on.
    assert files(rendered.path) >= {"README.md", "schema.yaml", "params.yaml", "dvc.yaml"}
    assert rendered.slug == "flight-delays"


def test_no_template_marks_are_left(rendered: Project) -> None:
    for name, text in text_files(rendered.path).items():
        if name not in ADDED and "/reporting/templates/" not in name:
            assert not re.search(r"{{\s*cookiecutter|{%|(?<!\$){{\s*\w+\.", text), name


def parse(project: Project) -> None:
    """Parse every file of a format that can be broken."""
    for name, text in text_files(project.path).items():
        match Path(name).suffix:
            case ".py":
                compile(text, name, "exec")
            case ".toml":
                tomllib.loads(text)
            case ".yaml" | ".yml":
                list(yaml.safe_load_all(text))
            case ".json":
                json.loads(text)
    yaml.safe_load((project.path / "dvc.yaml").read_text("utf-8"))


@pytest.mark.parametrize("how", ["options", "prompts"])
def test_odd_characters_survive(bake: Bake, how: str) -> None:
    given = {"project_name": f"N {ODD}", "description": f"D {ODD}", "author": f"A {ODD}"}
    if how == "options":
        project = bake(project_slug="odd", **given)
    else:
        typed = [given["project_name"], "odd", given["description"], given["author"]]
        project = bake(input="\n".join(typed) + "\n" * 10)
    parse(project)
    read = tomllib.loads((project.path / "pyproject.toml").read_text("utf-8"))["project"]
    assert read["description"] == given["description"]
    assert [author["name"] for author in read["authors"]] == [given["author"]]
    assert given["author"] in (project.path / "LICENSE").read_text("utf-8")
    kept = json.loads((project.path / ".cookiecutter.json").read_text("utf-8"))["cookiecutter"]
    assert {key: kept[key] for key in given} == given
    title = MarkdownIt().parse((project.path / "README.md").read_text("utf-8"))[1].children
    assert "".join(token.content for token in title or []) == given["project_name"]


@pytest.mark.parametrize("slug", ["q", "z" + "-long" * 9 + "-end"])
def test_short_and_long_names_are_clean(bake: Bake, slug: str) -> None:
    project = bake(project_slug=slug)
    assert project.slug == slug
    parse(project)
    lint(project)


def lint(project: Project) -> None:
    """Check style and format with the project's own rules; the package's are seen to in place."""
    for command in ("check", "format --check"):
        options = "--no-cache", "--extend-exclude", "packages"
        project.run(sys.executable, "-m", "ruff", *command.split(), *options)


def test_the_default_project_is_clean(rendered: Project) -> None:
    parse(rendered)
    lint(rendered)


@pytest.mark.parametrize("choice", QUESTIONS["license"])
def test_licence(bake: Bake, choice: str) -> None:
    project = bake(license=choice, author="Ada & Co")
    text = (project.path / "LICENSE").read_text("utf-8")
    source = (TEMPLATE / "templates" / "licenses" / choice).read_text("utf-8")
    assert text == source.replace("{{ cookiecutter.author }}", "Ada & Co")
    assert text.endswith(".\n")
    read = tomllib.loads((project.path / "pyproject.toml").read_text("utf-8"))["project"]
    assert read["license"] == ("LicenseRef-Proprietary" if choice == "Proprietary" else choice)


def test_caches_in_the_template_s_folder_are_not_rendered(bake: Bake, tmp_path: Path) -> None:
    template = tmp_path / "template"
    for part in ("hooks", "templates", TREE.name):
        shutil.copytree(TEMPLATE / part, template / part)
    shutil.copy(TEMPLATE / "cookiecutter.json", template)
    package = template / TREE.name / "packages/mlops-loop"
    for folder in ("src/mlops_loop/base/__pycache__", ".ruff_cache/0.1", ".mypy_cache", "tests/.x"):
        (package / folder).mkdir(parents=True)
        (package / folder / "left.pyc").write_bytes(b"\0\xff")
    (template / TREE.name / "tests/__pycache__").mkdir()
    (template / TREE.name / "tests/__pycache__/left.pyc").write_bytes(b"\0\xff")
    left = {name for name in files(bake(template=template).path) if name.endswith("left.pyc")}
    assert left == {"packages/mlops-loop/tests/.x/left.pyc"}  # what is no cache stays


def test_no_cache_lies_in_the_template_s_folder() -> None:
    assert [path for path in TREE.rglob("*") if path.name in post.CACHES] == []


# What must not be done


@pytest.mark.parametrize(
    "slug",
    ["../evil", "{tmp}/evil", "a/b", "..\\evil", ".", "..", "a//b", "Flight", "mlflow", "🛫"],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_refusal_leaves_nothing_behind(
    bake: Bake, tmp_path: Path, slug: str, force: bool
) -> None:
    out = tmp_path / "parent" / "out"
    out.mkdir(parents=True)
    (out / "mine").touch()
    before = set(tmp_path.rglob("*"))
    slug = slug.replace("{tmp}", tmp_path.as_posix())
    options = ["--no-input", "--overwrite-if-exists"] if force else []
    with pytest.raises(Refused, match=re.escape(f"project_slug {slug!a} ")):
        bake(*options, into=out, project_slug=slug)
    assert set(tmp_path.rglob("*")) == before


def test_a_typed_slug_cannot_leave_the_output_folder(bake: Bake, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        bake(into=tmp_path, input="Name\n../evil" + "\n" * 12)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["project_name", "description", "author", "email"])
def test_a_line_break_is_refused(bake: Bake, tmp_path: Path, key: str) -> None:
    with pytest.raises(Refused, match=key):
        bake(into=tmp_path, project_slug="fine", **{key: "a\nb"})
    assert list(tmp_path.iterdir()) == []


# The repository


def git(project: Project, *args: str) -> str:
    return project.run("git", *args).stdout.strip()


def test_the_first_commit_holds_everything(rendered: Project) -> None:
    assert git(rendered, "status", "--porcelain") == ""
    assert git(rendered, "rev-list", "--count", "HEAD") == "1"
    assert git(rendered, "branch", "--show-current") == "main"
    committed = git(rendered, "ls-tree", "-r", "--name-only", "-z", "HEAD").strip("\0").split("\0")
    assert set(committed) == files(rendered.path)


def test_a_new_project_shows_at_most_fifteen_entries(rendered: Project) -> None:
    assert len(entries(rendered.path) | {"uv.lock"}) <= 15


def test_what_is_made_is_ignored(rendered: Project) -> None:
    ignored = rendered.run("git", "check-ignore", *IGNORED.split()).stdout.split()
    assert ignored == IGNORED.split()
    assert rendered.run("git", "check-ignore", "reports/metrics.json", check=False).returncode == 1


def test_the_tester_s_git_settings_do_not_matter(bake: Bake, tmp_path: Path) -> None:
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("pre-commit", "commit-msg", "post-commit"):
        (hooks / name).write_text("#!/bin/sh\necho seen >> hook-ran\nexit 1\n")
        (hooks / name).chmod(0o755)
    (tmp_path / "ignore").write_text("README.md\n")
    config = tmp_path / "gitconfig"
    config.write_text(
        f"[core]\nhooksPath = {hooks.as_posix()}\nexcludesFile = {tmp_path.as_posix()}/ignore\n"
        f"[init]\ntemplateDir = {hooks.parent.as_posix()}\n[commit]\ngpgSign = true\n"
    )
    env = {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1"}
    project = bake(author="Zoë 東京", email="zoe@example.com", env=env)
    assert "Left out: the" not in project.said
    assert git(project, "log", "--format=%an <%ae>") == "Zoë 東京 <zoe@example.com>"
    assert "README.md" in git(project, "ls-files")
    assert not (project.path / "hook-ran").exists()

    config.write_text("[user]\nname = Me\nemail = me@example.com\n")
    assert git(bake(env=env), "log", "--format=%an <%ae>") == "Me <me@example.com>"


def test_rendering_from_a_git_hook(bake: Bake, tmp_path: Path) -> None:
    """Git sets GIT_DIR and the like there: the first commit must not go into that repository."""
    execute("git", "init", "--quiet", cwd=tmp_path)
    variables = {"GIT_DIR": str(tmp_path / ".git"), "GIT_INDEX_FILE": str(tmp_path / "index")}
    project = bake(env=variables)
    assert git(project, "status", "--porcelain") == ""
    assert {path.name for path in tmp_path.iterdir()} == {".git"}


def test_no_repository_inside_another(bake: Bake, tmp_path: Path) -> None:
    execute("git", "init", "--quiet", cwd=tmp_path)
    project = bake(into=tmp_path)
    assert "Left out: a git repository of its own, as this is inside another." in project.said
    assert ".github and .pre-commit-config.yaml do not run there" in project.said
    assert not (project.path / ".git").exists()
    assert files(project.path) - LINKED == in_project() | ADDED


def test_a_repository_in_an_ignored_folder(bake: Bake, tmp_path: Path) -> None:
    execute("git", "init", "--quiet", cwd=tmp_path)
    (tmp_path / ".gitignore").write_text("/build/\n")
    (tmp_path / "build").mkdir()
    project = bake(into=tmp_path / "build")
    assert Path(git(project, "rev-parse", "--show-toplevel")).samefile(project.path)
    assert git(project, "status", "--porcelain") == ""


def test_without_git_and_uv_the_project_is_complete(bake: Bake, tmp_path: Path) -> None:
    project = bake(env={"PATH": path_with(tmp_path / "bin")})
    said = project.said.splitlines()
    (no_lock, no_git) = [line for line in said if line.startswith("Left out: ")]
    assert "uv is not installed" in no_lock
    assert "uv lock" in no_lock
    assert "git is not installed" in no_git
    assert "git init -b main && git add --all && git commit" in no_git
    assert files(project.path) - LINKED == in_project() | ADDED
    next_steps = [line.strip() for line in said if line.startswith("  uv run ")]
    assert next_steps == ["uv run flight-delays demo", "uv run flight-delays doctor --ci"]


@pytest.mark.skipif(not shutil.which("uv"), reason="uv is not on PATH")
def test_offline_the_project_is_complete(bake: Bake, tmp_path: Path) -> None:
    project = bake(lock=True, env={"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path)})
    (left_out,) = [line for line in project.said.splitlines() if line.startswith("Left out: ")]
    assert left_out.startswith("Left out: uv.lock, as uv says '")
    assert left_out.endswith("When online: uv lock")
    assert git(project, "status", "--porcelain") == ""
    assert files(project.path) - LINKED == in_project() | ADDED


@pytest.mark.slow
def test_the_lock_file_is_in_the_first_commit(installed: Project) -> None:
    assert "Left out" not in installed.said
    assert git(installed, "ls-files", "uv.lock") == "uv.lock"
    assert git(installed, "rev-list", "--count", "HEAD") == "1"
    assert git(installed, "status", "--porcelain") == ""
    installed.run("uv", "lock", "--check")


@pytest.mark.slow
def test_dvc_is_set_up(installed: Project, tmp_path: Path) -> None:
    # A copy of its own, with the shared project's environment.
    copy = Project(tmp_path / "copy", installed.slug, installed.package, "")
    installed.run("git", "clone", "--quiet", installed.path, copy.path)

    def dvc(*args: str) -> str:
        return installed.run("uv", "run", "--no-sync", "dvc", "--cd", copy.path, *args).stdout

    (copy.path / "data").mkdir()
    (copy.path / "data" / "x.txt").write_text("x")
    dvc("config", "core.remote")
    assert "local" in dvc("remote", "list")
    dvc("stage", "add", "--name", "x", "--outs", "data/y.txt", "echo y > data/y.txt")
    dvc("repro", "x")
    dvc("push", "x")
    shutil.rmtree(copy.path / ".dvc" / "cache")
    (copy.path / "data" / "y.txt").unlink()
    dvc("pull", "x")
    assert (copy.path / "data" / "y.txt").exists()
    assert "up to date" in dvc("status", "x")
    changed = git(copy, "status", "--porcelain").split()
    assert changed == ["M", "dvc.yaml", "??", "dvc.lock"]


# Rendering again


def test_replay_gives_the_same_tree(bake: Bake, tmp_path: Path) -> None:
    first = bake(project_name=f"N {ODD}", project_slug="again", license="BSD-3-Clause")
    again = bake("--replay-file", first.path / ".cookiecutter.json")
    assert text_files(first.path) == text_files(again.path)

    answers = json.loads((first.path / ".cookiecutter.json").read_text("utf-8"))
    answers["cookiecutter"] |= {"project_slug": "../evil", "__typed_slug": "../evil"}
    (tmp_path / "out").mkdir()
    (tmp_path / "edited.json").write_text(json.dumps(answers), "utf-8")
    with pytest.raises(Refused):
        bake("--replay-file", tmp_path / "edited.json", into=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "edited.json"}


def test_replay_of_answers_to_fewer_questions(bake: Bake, tmp_path: Path) -> None:
    """As 1.0.0 kept them; cookiecutter asks what has come since."""
    first = bake(project_slug="older")
    kept = json.loads((first.path / ".cookiecutter.json").read_text("utf-8"))
    for question in DEFAULT:
        kept["cookiecutter"][f"__{question}"] = kept["cookiecutter"].pop(question)
    (tmp_path / "older.json").write_text(json.dumps(kept), "utf-8")
    again = bake("--replay-file", tmp_path / "older.json", input="\n" * len(DEFAULT))
    assert text_files(first.path) == text_files(again.path)


def test_replay_of_the_last_answers(bake: Bake) -> None:
    first = bake(project_name="Once more")
    assert text_files(first.path) == text_files(bake("--replay").path)
