"""The hooks as plain Python: which answers are refused, what is removed, what is kept."""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import post_gen_project as post
import pre_gen_project as pre
import pytest
from answers import below, every
from conftest import QUESTIONS, TEMPLATE, TREE, Project, execute

VISIBLE = [key for key in QUESTIONS if not key.startswith("_")]


def answers(**changes: str) -> dict[str, Any]:
    """Return what cookiecutter hands to the hooks: the first choice of everything, and changes."""
    given = {key: QUESTIONS[key] for key in VISIBLE}
    given = {key: value[0] if isinstance(value, list) else value for key, value in given.items()}
    given |= {"project_slug": "flight-delays"} | changes
    slug = given["project_slug"]
    return {
        **given,
        "__typed_slug": slug,
        "__package_name": slug.replace("-", "_"),
        "__quoted": {key: json.dumps(given[key]) for key in QUESTIONS["__quoted"]},
    }


@pytest.mark.parametrize("slug", ["q", "x2", "flight-delays", "a-1-b", "x" * 50])
def test_accepts_slug(slug: str) -> None:
    assert pre.problem(answers(project_slug=slug)) is None


# fmt: off
BAD_SLUGS = [
    "", " ", "-", "a-", "-a", "a--b", "2nd", "Flight", "flight_delays", "flight.delays", "a b",
    "höhe", "東京", "a\n", "../evil", "/abs", "a/b", "..\\evil", "C:evil", ".", "..", "a//b",
    "x" * 51,
    "class", "lambda", "match", "json", "email", "asyncio", "typing",
    "test", "tests", "src", "mlflow", "great-expectations", "sklearn", "scikit-learn", "python",
]
BAD_TEXTS = ["", "  ", "a\nb", "a\x07", "a\x7f", "a\u2028b", "\ufffe", "{{ x", "{% x", "{# x"]
# fmt: on


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_refuses_slug(slug: str) -> None:
    line = pre.problem(answers(project_slug=slug))
    assert line
    assert line.startswith(f"project_slug {slug!a} ")
    assert "\n" not in line


def requirements(project: Project) -> set[str]:
    """Return the normalised names of everything that the generated pyproject.toml asks for."""
    data = tomllib.loads((project.path / "pyproject.toml").read_text("utf-8"))
    listed = [*data["project"].get("dependencies", []), *data["build-system"]["requires"]]
    for group in data["dependency-groups"].values():
        listed += [entry for entry in group if isinstance(entry, str)]
    names = [re.split(r"[^\w.-]", entry)[0] for entry in listed]
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def test_refuses_every_direct_dependency(rendered: Project) -> None:
    assert {name for name in requirements(rendered) if not pre.slug_problem(name)} == set()


@pytest.mark.slow
def test_refuses_every_import_name_of_a_direct_dependency(installed: Project) -> None:
    code = "import json, importlib.metadata as m; print(json.dumps(m.packages_distributions()))"
    modules = json.loads(installed.uv("python", "-c", code).stdout)
    direct = requirements(installed)
    names = {
        name.replace("_", "-").lower()
        for name, owners in modules.items()
        if {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & direct
    }
    assert {name for name in names if not pre.slug_problem(name)} == set()


@pytest.mark.parametrize("key", ["project_name", "description", "author", "email"])
@pytest.mark.parametrize("text", BAD_TEXTS)
def test_refuses_text(key: str, text: str) -> None:
    line = pre.problem(answers(**{key: text}))
    assert line
    assert line.startswith(f"{key} {text!a} ")
    assert "\n" not in line


@pytest.mark.parametrize("email", ["nobody", "a@b@c", "a b@example.com", 'a"@example.com'])
def test_refuses_email(email: str) -> None:
    assert pre.problem(answers(email=email))


@pytest.mark.parametrize("key", ["project_slug", "__typed_slug", "__package_name", "description"])
def test_refuses_an_edited_replay(key: str) -> None:
    assert pre.problem(answers() | {key: "another"})


def test_a_refusal_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        pre.main(answers(project_name=""))
    assert refusal.value.code == "Refused: project_name '' is empty: give one line of plain text."
    pre.main(answers())
    assert capsys.readouterr() == ("", "")


def test_every_question_and_every_choice_has_a_label() -> None:
    assert set(QUESTIONS["__prompts__"]) == set(VISIBLE)
    for key in VISIBLE:
        if isinstance(QUESTIONS[key], list):
            assert set(QUESTIONS["__prompts__"][key]) == {"__prompt__", *QUESTIONS[key]}


@pytest.mark.parametrize("hook", ["pre_gen_project", "post_gen_project"])
def test_a_hook_holds_one_jinja_expression(hook: str) -> None:
    text = (TEMPLATE / "hooks" / f"{hook}.py").read_text("utf-8")
    assert re.findall(r"{[{%#].*[}%#]}", text) == ["{{ cookiecutter | jsonify }}"]


def test_the_tables_name_what_exists() -> None:
    for (question, answer), paths in (*post.ONLY.items(), *post.MOVED.items()):
        assert answer in QUESTIONS[question]  # a text, or a list of texts
        assert {path for path in paths if not (TREE / path).exists()} == set()


def test_what_is_moved_is_its_answer_s_own() -> None:
    """Several answers may share it; whom it is not for, it is removed."""
    for (question, answer), paths in post.MOVED.items():
        sources = set(paths)
        for choice in QUESTIONS[question]:
            movers = set(post.MOVED.get((question, choice), {}))
            owned = below(sources, post.ONLY[question, choice])
            assert owned == sources if choice == answer else owned <= movers


def test_the_hook_knows_the_choices() -> None:
    asked = {key: value for key, value in QUESTIONS.items() if isinstance(value, list)}
    asked.pop("_copy_without_render")
    assert asked == pre.CHOICES


@pytest.mark.parametrize("key", pre.CHOICES)
def test_refuses_a_replayed_answer_that_is_none_of_the_choices(key: str) -> None:
    line = pre.problem(answers(**{key: "another"}))
    assert line
    assert line.startswith(f"{key} 'another' is unknown: choose one of ")


def test_refuses_what_makes_no_sense_together() -> None:
    assert pre.NONSENSE
    for together, why in pre.NONSENSE:
        line = pre.problem(answers(**together))
        assert line
        assert line.endswith(f" makes no sense: {why}.")
        assert "\n" not in line
        for key in together:  # each of the answers alone is another matter
            rest = {k: v for k, v in together.items() if k != key}
            assert "no sense" not in str(pre.problem(answers(**{key: "another"} | rest)))


@pytest.mark.parametrize("given", list(every()), ids=lambda given: "-".join(given.values()))
def test_accepts_every_combination_of_the_answers(given: dict[str, str]) -> None:
    assert pre.problem(answers(**given)) is None


def test_prune_removes_what_no_answer_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {
        ("ci", "github"): ["github", "never-rendered"],
        ("ci", "other"): ["other"],
        ("platform", "one"): ["one", "other/one"],
        ("platform", "two"): ["two", "other/two"],
        ("platform", "three"): ["three", "one/shared", "other/two"],
    }
    monkeypatch.setattr(post, "ONLY", table)
    there = ["kept", "github/x", "other/x", "other/one/x", "other/two"]
    there += ["one/x", "one/shared/x", "two/x", "three/x/y"]
    for name in there:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def left(ci: str, platform: str) -> list[str]:
        project = tmp_path.with_name(f"{ci}-{platform}")
        shutil.copytree(tmp_path, project)
        post.prune(project, {"ci": ci, "platform": platform})
        assert all(any(path.iterdir()) for path in project.rglob("*") if path.is_dir())
        return [name for name in there if (project / name).exists()]

    assert left("github", "one") == ["kept", "github/x", "one/x", "one/shared/x"]
    assert left("github", "two") == ["kept", "github/x", "two/x"]
    assert left("github", "three") == ["kept", "github/x", "one/shared/x", "three/x/y"]
    assert left("other", "one") == ["kept", "other/x", "other/one/x", "one/x", "one/shared/x"]
    assert left("other", "three") == ["kept", "other/x", "other/two", "one/shared/x", "three/x/y"]


def test_the_last_lines_name_the_pages_there_are(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/kserve.md").touch()
    (tmp_path / "docs/aws-codepipeline.md").touch()
    alone = post.next_steps(tmp_path, answers())
    assert alone.splitlines()[1:] == [
        "flight-delays is ready. Next:",
        f'  cd "{tmp_path}"',
        "  uv run flight-delays demo",
        "Before the first push:",
        "  uv run flight-delays doctor --ci",
    ]
    both = post.next_steps(tmp_path, answers(ci="aws-codepipeline", platform="kserve"))
    assert "\n  read docs/aws-codepipeline.md and docs/kserve.md\n" in both


def test_answers_to_the_first_version_are_dropped() -> None:
    old = {"__ci": "github", "__platform": "docker-compose", "__compute": "local", "_x": 1}
    assert post.given({**old, "ci": "github"}) == {"ci": "github"}


@pytest.mark.parametrize("template", ["gh:owner/template", sys.executable])
def test_the_answers_hold_no_path_of_this_machine(tmp_path: Path, template: str) -> None:
    private = {"_output_dir": "/home/me", "_repo_dir": "/home/me/x", "_copy_without_render": []}
    given = answers(author="Zoë 東京 🛫")
    post.keep_answers(tmp_path, given | private | {"_template": template, "_checkout": "v1"})
    text = (tmp_path / post.ANSWERS).read_text("utf-8")
    kept = json.loads(text)["cookiecutter"]
    expected = given | {"_checkout": "v1"}
    if template.startswith("gh:"):
        expected["_template"] = template
    assert kept == expected
    assert "Zoë 東京 🛫" in text


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        ("https://token@example.com/t.git", "https://example.com/t.git"),
        ("https://user:pass@example.com/t.git", "https://example.com/t.git"),
        ("gh:somebody/template", "gh:somebody/template"),
        (str(TEMPLATE), None),
    ],
)
def test_the_answers_hold_no_secret_and_no_path(
    tmp_path: Path, template: str, kept: str | None
) -> None:
    post.keep_answers(tmp_path, {"author": "A", "_template": template})
    answers = json.loads((tmp_path / post.ANSWERS).read_text("utf-8"))["cookiecutter"]
    assert answers.get("_template") == kept


def repository(folder: Path, url: str) -> str:
    """Make a template's repository with one commit and a remote; return the commit."""
    folder.mkdir()
    (folder / "cookiecutter.json").write_text("{}", "utf-8")
    author = "-c", "user.name=a", "-c", "user.email=a@example.com"
    for command in (
        ("init", "-q"),
        ("add", "."),
        ("commit", "-qm", "x"),
        ("remote", "add", "origin", url),
    ):
        assert execute("git", *author, *command, cwd=folder).returncode == 0
    return execute("git", "rev-parse", "HEAD", cwd=folder).stdout.strip()


def test_a_project_is_linked_to_the_repository_of_its_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commit = repository(tmp_path / "template", "https://token@example.com/t.git")
    for source in ("template", str(tmp_path / "template")):
        monkeypatch.setenv("PWD", str(tmp_path))
        post.link(tmp_path, answers(_repo_dir=source, _checkout="v1"))
        linked = json.loads((tmp_path / post.CRUFT).read_text("utf-8"))
        (tmp_path / post.CRUFT).unlink()
        assert linked["template"] == "https://example.com/t.git"
        assert (linked["commit"], linked["checkout"]) == (commit, "v1")
        assert linked["context"]["cookiecutter"]["project_slug"] == "flight-delays"
        assert str(tmp_path) not in json.dumps(linked)


@pytest.mark.parametrize("url", ["", "/home/me/template"])
def test_a_project_of_a_local_template_is_not_linked(tmp_path: Path, url: str) -> None:
    repository(tmp_path / "template", url or "/tmp/x")
    source = str(tmp_path / ("template" if url else "nothing"))
    post.link(tmp_path, answers(_repo_dir=source))
    assert not (tmp_path / post.CRUFT).exists()
