"""The documentation: it builds, what it names exists, its commands run and print what it quotes."""

import ast
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import httpx
import pytest
from conftest import (
    QUESTIONS,
    TEMPLATE,
    TREE,
    Project,
    copy_environment,
    entries,
    execute,
    files,
    serving,
)
from markdown_it import MarkdownIt
from markdown_it.token import Token

README, TUTORIAL = TEMPLATE / "README.md", TEMPLATE / "docs/tutorial.md"
SCALING = TEMPLATE / "docs/scaling.md"
PAGES = [README, TEMPLATE / ".github/CONTRIBUTING.md", *sorted((TEMPLATE / "docs").rglob("*.md"))]
VISIBLE = [key for key in QUESTIONS if not key.startswith("_")]

# Documented commands that are run elsewhere, and where.
ELSEWHERE = {
    "make showcase": "tests/test_showcase.py, also what is quoted of it",
    "make demo": "it renders and runs `demo`, as the commands after it do",
    "uv run flight-delays demo": "the generated project's own tests",
    "uv run pytest -n auto": "tests/test_package.py",
}
# Documented commands that run until they are stopped: port, and the path that answers when ready.
SERVERS = {
    "uv run flight-delays serve": ("8000", "/health/ready"),
    "uv run mlflow ui --backend-store-uri sqlite:///.mlflow/mlflow.db": ("5000", "/health"),
}


def fences(text: str) -> list[tuple[str, str]]:
    """Return language and content of each code block."""
    tokens = MarkdownIt().parse(text)
    return [(token.info, token.content) for token in tokens if token.type == "fence"]


def inline(text: str) -> Iterator[Token]:
    for token in MarkdownIt().enable("table").parse(text):
        yield from token.children or []


def first_column(text: str) -> list[str]:
    """Return what stands as code in the first column of the tables."""
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


# What it names exists


@pytest.mark.skipif(not shutil.which("uv"), reason="uv is not on PATH")
def test_the_site_builds(tmp_path: Path) -> None:
    uv = ("uv", "run", "--isolated", "--only-group", "docs")
    done = execute(
        *uv, "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site", cwd=TEMPLATE
    )
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").glob("*.html"):
        loaded = r'<(?:img|link|script)[^>]*(?:src|href)="?(https?:[^"> ]*)'
        assert re.findall(loaded, page.read_text("utf-8")) == [], page


def test_the_tests_in_the_readme() -> None:
    named = set(re.findall(r"`(tests/\w+\.py)`", README.read_text("utf-8")))
    assert named
    assert named <= {f"tests/{path.name}" for path in (TEMPLATE / "tests").glob("test_*.py")}


def test_links(rendered: Project) -> None:
    of_project = rendered.path.glob("docs/*.md")
    for page in (*PAGES, rendered.path / "README.md", *of_project):
        text = page.read_text("utf-8")
        titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        links = [token.attrGet("href") or token.attrGet("src") or "" for token in inline(text)]
        for link in filter(None, map(str, links)):
            path, _, anchor = unquote(link).partition("#")
            if "://" not in path:
                # The site shows the project's own pages below project/.
                in_project = path.startswith("project/")
                target = TREE / "docs" / Path(path).name if in_project else page.parent / path
                assert target.exists(), f"{page.name}: {link}"
                assert path or anchor in anchors, f"{page.name}: {link}"


def test_the_tree_in_the_readme(rendered: Project) -> None:
    (block,) = [code for _, code in fences(README.read_text("utf-8")) if "├──" in code]
    root, *lines = block.splitlines()
    assert root == f"{rendered.slug}/"
    parents: list[str] = []
    for line in lines:
        marks, name = re.findall(r"^([│├└─ ]+)(\S+)", line)[0]
        parents[len(marks) // 4 - 1 :] = [name]
        path = rendered.path.joinpath(*parents)
        assert path.is_dir() if name.endswith("/") else path.is_file(), path


def test_the_tree_in_the_readme_of_the_project(rendered: Project) -> None:
    text = (rendered.path / "README.md").read_text("utf-8")
    (block,) = [code for language, code in fences(text) if not language]
    named = set(re.findall(r"[\w.]+\.(?:py|yaml)\b", block))
    assert named
    assert named <= {Path(name).name for name in files(rendered.path)}


def test_the_picture() -> None:
    text = (TEMPLATE / "docs/images/loop.svg").read_text("utf-8")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
    assert not tags & {"script", "image", "use", "foreignObject"}
    assert set(re.findall(r"\w+://[^\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert all(reference.startswith("#") for reference in re.findall(r"url\((.*?)\)", text))


def test_the_questions(rendered: Project) -> None:
    readme = README.read_text("utf-8").partition("\n## The questions\n")[2].partition("\n## ")[0]
    assert first_column(readme) == VISIBLE

    answers = json.loads((rendered.path / ".cookiecutter.json").read_text("utf-8"))["cookiecutter"]
    page = (TEMPLATE / "docs/questions.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == VISIBLE
    for key, section in sections.items():
        choices = QUESTIONS[key] if isinstance(QUESTIONS[key], list) else []
        for value in (answers[key], *choices):
            assert f"`{value}`" in section, key


def test_the_variables() -> None:
    """Those of the page are those of .env.example."""
    example = (TREE / ".env.example").read_text("utf-8")
    page = (
        (TEMPLATE / "docs/questions.md").read_text("utf-8").partition("\n## What is not asked")[2]
    )
    assert set(first_column(page)) == set(re.findall(r"^# ([A-Z_]+)=", example, re.MULTILINE))


def test_the_figures_of_the_scaling_page() -> None:
    """They are those that `capacity` reckons with."""
    costs = TREE / "packages/mlops-loop/src/mlops_loop/onboarding/capacity/unit_costs.json"
    done = execute(sys.executable, TEMPLATE / "benchmarks/growth.py", costs, cwd=TEMPLATE)
    assert done.returncode == 0, done.stderr
    tables = done.stdout.strip().split("\n\n")
    assert len(tables) >= 3
    assert set(tables) <= set(re.split(r"\n\n|\n?<!-- .* -->\n?", SCALING.read_text("utf-8")))


@pytest.mark.slow
def test_the_plan_of_the_scaling_page(pipeline: Project) -> None:
    (step,) = steps(SCALING.read_text("utf-8"))
    assert pipeline.run(*shlex.split(step.command)).stdout.splitlines() == list(step.quoted)


def test_the_contract() -> None:
    """The page has every key of schema.yaml, and no other."""
    source = TREE / "packages/mlops-loop/src/mlops_loop/contract/schema.py"
    classes = [
        node for node in ast.parse(source.read_text("utf-8")).body if isinstance(node, ast.ClassDef)
    ]
    keys = {
        node.name: [
            field.target.id
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        ]
        for node in classes
    }
    page = (TREE / "docs/contract.md").read_text("utf-8")
    _, table, column = re.split(r"^## (?:The table|A column)$", page, flags=re.MULTILINE)
    assert sorted(first_column(table)) == sorted(keys["Schema"])
    assert sorted(first_column(column.partition("\n## ")[0])) == sorted(keys["Column"])


# Its commands run


@dataclass(frozen=True)
class Step:
    """A command as documented, and the lines that are quoted as what it prints."""

    command: str
    quoted: tuple[str, ...] = ()


def steps(text: str) -> list[Step]:
    """Return the commands of a page in order. A diff is an edit of params.yaml."""
    found = []
    for language, code in fences(text):
        code = code.replace("\\\n", "")
        if language == "sh":
            found += [Step(line) for line in code.splitlines() if line.strip()]
        elif language == "console":
            for block in code.removeprefix("$ ").split("\n$ "):
                command, *quoted = block.splitlines()
                found.append(Step(command, tuple(quoted)))
        elif language == "diff":
            found.append(Step("edit params.yaml", tuple(code.splitlines())))
        else:
            assert language in ("", "text"), f"```{language}: sh, console, diff or text, please"
    return found


def same(quoted: str, printed: str) -> bool:
    """Compare two lines: `...` is anything, decimals may differ a little, and spaces in number."""
    quoted, printed = " ".join(quoted.split()), " ".join(printed.split())
    parts = re.split(r"(\.\.\.|\d+\.\d+)", quoted)  # every other one is dots or a number
    patterns = [re.escape(part) for part in parts]
    patterns[1::2] = [".*" if part == "..." else r"(\d+\.\d+)" for part in parts[1::2]]
    numbers = [float(part) for part in parts[1::2] if part != "..."]
    found = re.fullmatch("".join(patterns), printed)
    if found is None:
        return False
    return [float(n) for n in found.groups()] == pytest.approx(numbers, rel=0.02, abs=0.005)


def test_same() -> None:
    assert same("AUC 0.6880, see a/...", "AUC  0.6912, see a/b c")
    assert not same("AUC 0.6880", "AUC 0.6010")
    assert not same("80 of 81 passed", "79 of 81 passed")


@dataclass
class Terminal:
    """Where somebody types what a page says: a folder, and the servers started so far."""

    folder: Path
    env: dict[str, str]
    made: Project  # one that has run: with its cache of DVC, stages need not run again
    code: int = 0
    addresses: dict[str, str] = field(default_factory=dict)  # as documented -> as used
    servers: ExitStack = field(default_factory=ExitStack)

    def follow(self, page: str, *here: str) -> None:
        """Do all that a page says; a command must succeed unless its exit code is looked at.

        What is run elsewhere is left out, but for the commands in `here`.
        """
        todo = steps(page)
        assert todo
        wrong: list[str] = []  # all of them, as a page takes minutes
        for step, after in pairwise([*todo, Step("")]):
            print("$", step.command, flush=True)
            if step.command in ELSEWHERE.keys() - here:
                continue
            printed = self.type(step)
            print(printed, flush=True)
            assert self.code == 0 or after.command == "echo $?", f"{step.command}\n{printed}"
            if step.command == "edit params.yaml":
                continue
            lines = printed.splitlines()
            wrong += [
                f"{step.command}\n{quoted}\nis not in\n{printed}"
                for quoted in step.quoted
                if quoted != "..." and not any(same(quoted, line) for line in lines)
            ]
        assert not wrong, "\n\n".join(wrong)

    def type(self, step: Step) -> str:
        """Do one step and return what is printed."""
        words = shlex.split(step.command, comments=True)
        command = " ".join(words)
        if command == "echo $?":
            code, self.code = self.code, 0
            return str(code)
        if command == "edit params.yaml":
            return self.edit(step.quoted)
        if words[0] == "cd":
            return self.enter(self.folder / words[1])
        if command in SERVERS:
            return self.start(words, *SERVERS[command])
        for documented, used in self.addresses.items():
            words = [word.replace(documented, used) for word in words]
        # The line breaks answer cookiecutter's questions.
        done = execute(*words, cwd=self.folder, env=self.env, input="\n" * 20)
        self.code = done.returncode
        return done.stdout + done.stderr

    def edit(self, lines: tuple[str, ...]) -> str:
        before, after = (
            "".join(f"{line[1:]}\n" for line in lines if line.startswith(sign)) for sign in "-+"
        )
        path = self.folder / "params.yaml"
        text = path.read_text("utf-8")
        assert before in text
        path.write_text(text.replace(before, after), "utf-8")
        return ""

    def enter(self, folder: Path) -> str:
        self.folder = folder.resolve(strict=True)
        if not (folder / ".dvc/cache").exists():
            shutil.copytree(self.made.path / ".dvc/cache", folder / ".dvc/cache")
            copy_environment(self.made, Project(self.folder, "", "", ""))
        return ""

    def start(self, words: list[str], documented: str, path: str) -> str:
        """Start a server on a free port, and wait until it answers; it runs until the page ends."""
        here = Project(self.folder, "", "", "")
        address = self.servers.enter_context(serving(here, *words, **self.env))
        self.addresses[f"http://127.0.0.1:{documented}"] = address
        httpx.get(address + path, timeout=120, trust_env=False).raise_for_status()
        return ""


@pytest.fixture
def terminal(pipeline: Project, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in a clone of the template."""
    if os.name == "nt" or not shutil.which("curl"):
        pytest.skip("the pages are written for a POSIX shell with curl")
    clone = tmp_path / "cookiecutter-mlops"
    for part in ("hooks", "templates", TREE.name):
        shutil.copytree(TEMPLATE / part, clone / part)
    shutil.copy(TEMPLATE / "cookiecutter.json", clone)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"replay_dir": str(tmp_path / "replay")}), "utf-8")
    people = {f"GIT_{who}_NAME": "Tester" for who in ("AUTHOR", "COMMITTER")}
    people |= {f"GIT_{who}_EMAIL": "tester@example.com" for who in ("AUTHOR", "COMMITTER")}
    env = {"COOKIECUTTER_CONFIG": str(config), **people}
    terminal = Terminal(clone, env, pipeline)
    with terminal.servers:
        yield terminal


@pytest.mark.slow
def test_the_tutorial(terminal: Terminal) -> None:
    demo = "uv run flight-delays demo"
    first, another_model, rest = TUTORIAL.read_text("utf-8").partition("\n## Try another model\n")
    terminal.follow(first, demo)
    assert len(entries(terminal.folder)) <= 18
    terminal.follow(another_model + rest, demo)


@pytest.mark.slow
def test_both_readmes(terminal: Terminal) -> None:
    terminal.follow(README.read_text("utf-8"))
    terminal.follow((terminal.folder / "README.md").read_text("utf-8"))


def test_what_is_documented_as_run_elsewhere_is_documented() -> None:
    pages = [README, TUTORIAL, TREE / "README.md"]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    text = text.replace("{{ cookiecutter.project_slug }}", "flight-delays")
    typed = {" ".join(shlex.split(step.command, comments=True)) for step in steps(text)}
    assert typed >= {*ELSEWHERE, *SERVERS}
