"""Finish the project: drop what the answers do not need, keep the answers, lock, first commit.

Nothing here may fail the generation: what cannot be done is said in one line, with its command.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

# What one server needs, and what clusters of all kinds do.
SERVER = ["deploy/compose.yaml", "deploy/observe", "deploy/google/cloud-run", "deploy/aws/ecs"]
CLUSTER = [".github/workflows/cd-cluster.yml", "deploy/google/gke", "deploy/aws/eks"]
SHARED = ["cluster.sh", "components/external-secret", "components/jobs"]
SHARED += ["components/network-policy", "setup.yaml"]
CLUSTER += [f"deploy/kubernetes/{name}" for name in SHARED]
KUBEFLOW = ["packages/mlops-loop-kubeflow", "deploy/kubeflow", "docs/kubeflow.md"]
RAY = ["packages/mlops-loop-ray", "deploy/ray", "docs/ray.md"]
# (question, answer) -> paths that only this answer needs; of the loop none: it is one package for
# all, and packages beside it add to it. A file stays if, of each question that names it or a folder
# above it, one of the answers named is given.
ONLY = {
    ("ci", "github"): [".github"],
    ("ci", "google-cloud-build"): ["deploy/google", "docs/google-cloud-build.md"],
    ("ci", "aws-codepipeline"): ["deploy/aws", "docs/aws-codepipeline.md"],
    ("platform", "docker-compose"): SERVER,
    ("platform", "kubernetes"): [*CLUSTER, "deploy/kubernetes", "docs/kubernetes.md"],
    ("platform", "kserve"): [*CLUSTER, "deploy/kserve", "docs/kserve.md"],
    ("platform", "seldon"): [*CLUSTER, "deploy/seldon", "docs/seldon.md"],
    ("orchestrator", "kubeflow"): KUBEFLOW,
    ("compute", "ray"): RAY,
}
GOOGLE = "delivery.yaml", "skaffold.yaml", "smoke.sh"
AWS = "target.yaml", "buildspec-deploy.yml", "buildspec-roll-back.yml"
TO_SERVER = {f"deploy/google/cloud-run/{name}": f"deploy/google/{name}" for name in GOOGLE}
TO_SERVER |= {f"deploy/aws/ecs/{name}": f"deploy/aws/{name}" for name in (*AWS, "release.sh")}
TO_CLUSTER = {f"deploy/google/gke/{name}": f"deploy/google/{name}" for name in GOOGLE}
TO_CLUSTER |= {f"deploy/aws/eks/{name}": f"deploy/aws/{name}" for name in (*AWS, "access.yaml")}
TO_CLUSTER |= {".github/workflows/cd-cluster.yml": ".github/workflows/cd.yml"}
# (question, answer) -> files of which each answer has its own, and where they belong.
MOVED = {
    ("platform", "docker-compose"): TO_SERVER,
    ("platform", "kubernetes"): {"deploy/kubernetes/release.sh": "deploy/release.sh"} | TO_CLUSTER,
    ("platform", "kserve"): {"deploy/kserve/release.sh": "deploy/release.sh"} | TO_CLUSTER,
    ("platform", "seldon"): {"deploy/seldon/release.sh": "deploy/release.sh"} | TO_CLUSTER,
}

# What tools leave in the template's folder while one works on it.
CACHES = {"__pycache__", ".hypothesis", ".import_linter_cache", ".mypy_cache", ".pytest_cache"}
CACHES |= {".ruff_cache"}
ROOT_ONLY = ".github", ".pre-commit-config.yaml"
# What a replay of answers to version 1.0 brings along.
NOW_ASKED = {"__ci", "__platform", "__orchestrator", "__compute"}
ANSWERS, CRUFT = ".cookiecutter.json", ".cruft.json"
COMMIT = 'git add --all && git commit -m "Start from cookiecutter-mlops"'


def wrap_rules(root: Path) -> None:
    """Put Prometheus' rules into the resource that its operator takes them from."""
    rules = root / "deploy/observe/rules.yml"
    resource = root / "deploy/kubernetes/components/monitoring/prometheus-rule.yaml"
    if rules.exists() and resource.exists():
        with resource.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(f"  {line}\n" for line in rules.read_text("utf-8").splitlines())


def move(root: Path, answers: dict[str, Any]) -> None:
    """Put the files of the given answers where they belong."""
    for given, paths in MOVED.items():
        for source, target in paths.items() if given in answers.items() else ():
            if (root / source).exists():
                (root / source).replace(root / target)


def needed(path: PurePath, answers: dict[str, Any]) -> bool:
    """Return whether the given answers need a file, by its path in the project."""
    questions: dict[str, bool] = {}  # those that name the file, and whether the answer given does
    for (question, answer), paths in ONLY.items():
        if any(path.is_relative_to(named) for named in paths):
            questions[question] = questions.get(question, False) or answers[question] == answer
    return all(questions.values())


def prune(root: Path, answers: dict[str, Any]) -> None:
    """Remove the files that the given answers do not need, and the folders that this empties."""
    named = {root / path for paths in ONLY.values() for path in paths}
    below = {below for path in named if path.is_dir() for below in path.rglob("*")}
    for path in sorted(named | below, reverse=True):  # a folder comes after what is in it
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and not needed(path.relative_to(root), answers):
            path.unlink()


def drop_caches(root: Path) -> None:
    """Remove caches that were rendered with the template's files."""
    for path in [path for path in root.rglob("*") if path.name in CACHES]:
        shutil.rmtree(path, ignore_errors=True)


def keep_answers(root: Path, answers: dict[str, Any]) -> None:
    """Write the answers as `cookiecutter --replay-file` reads them, without paths of this machine.

    What begins with one underscore is the template's, and comes from it again on a replay.
    """
    kept = given(answers)
    template = answers.get("_template") or ""
    if not PurePath(template).is_absolute():
        kept["_template"] = without_secret(template)
    kept["_checkout"] = answers.get("_checkout")
    write_json(root / ANSWERS, {"cookiecutter": kept})


def given(answers: dict[str, Any]) -> dict[str, Any]:
    """Return the answers and what follows from them, without what the template says of itself."""
    return {
        key: value
        for key, value in answers.items()
        if (not key.startswith("_") or key.startswith("__")) and key not in NOW_ASKED
    }


def without_secret(url: str) -> str:
    """Return a URL without the user and the token in it."""
    return re.sub(r"//[^/@]*@", "//", url)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON, the same on each platform; a line for each answer, as updates merge lines."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def link(root: Path, answers: dict[str, Any]) -> None:
    """Write what `cruft update` needs, if the template comes from a repository that has a URL.

    cruft itself writes the file anew when it renders.
    """
    # A relative path begins where the user typed it; the working directory is the project.
    source = Path(os.environ.get("PWD", ""), answers.get("_repo_dir") or "")
    if not shutil.which("git") or not (source / ".git").exists():
        return
    if not (source / "cookiecutter.json").is_file():
        return
    in_template = "git", "-C", str(source)
    url = run(*in_template, "remote", "get-url", "origin").stdout.strip()
    commit = run(*in_template, "rev-parse", "HEAD").stdout.strip()
    if commit and url and not PurePath(url).is_absolute():
        linked = {
            "template": without_secret(url),
            "commit": commit,
            "checkout": answers.get("_checkout"),
            "context": {"cookiecutter": given(answers)},
        }
        write_json(root / CRUFT, linked)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the project, outside any repository that the caller's variables name."""
    repository = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"}
    env = {key: value for key, value in os.environ.items() if key not in repository}
    return subprocess.run(
        command,
        env=env,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def last_line(text: str) -> str:
    """Return the last line that holds something: where tools put the reason."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason")


def lock() -> str | None:
    """Write uv.lock; return what was left out, or None."""
    if not shutil.which("uv"):
        return "uv.lock, as uv is not installed. Install uv, then: uv lock"
    print("Locking the dependencies with uv ...", flush=True)
    done = run("uv", "lock")
    if done.returncode:
        return f"uv.lock, as uv says '{last_line(done.stderr)}'. When online: uv lock"
    return None


def commit(answers: dict[str, Any]) -> str | None:
    """Make a repository with one commit of everything; return what was left out, or None.

    A folder that the surrounding repository ignores (a build folder) gets one of its own.
    """
    if not shutil.which("git"):
        return f"the git repository, as git is not installed. Later: git init -b main && {COMMIT}"
    inside = run("git", "rev-parse", "--is-inside-work-tree").stdout.strip() == "true"
    if inside and run("git", "check-ignore", "--quiet", ".").returncode:
        left_out = f"a git repository of its own, as this is inside another. To commit: {COMMIT}"
        root = f"{' and '.join(ROOT_ONLY)} do not run there, but at a repository's root only"
        return f"{left_out}\n  {root}: move them, and set working-directory"

    # The user's templates, hooks, ignore rules and signing key are for the user's own commits.
    settings = {
        "core.hooksPath": ".git/hooks",
        "core.excludesFile": "",
        "commit.gpgSign": "false",
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    identity = {"user.name": answers["author"], "user.email": answers["email"]}
    missing = {
        key: value for key, value in identity.items() if run("git", "config", key).returncode
    }
    for step in (
        ("init", "--quiet", "--initial-branch=main", "--template="),
        *(("config", "--local", key, value) for key, value in missing.items()),
        ("add", "--all"),
        ("commit", "--quiet", "--message=Start from cookiecutter-mlops"),
    ):
        done = run("git", *options, *step)
        if done.returncode:
            return f"the first commit, as git says '{last_line(done.stderr)}'. Later: {COMMIT}"
    return None


def next_steps(root: Path, answers: dict[str, Any]) -> str:
    """Return what to type next, and before the first push."""
    slug = answers["project_slug"]
    named = [path for given, paths in ONLY.items() if given in answers.items() for path in paths]
    pages = [path for path in named if path.startswith("docs/") and (root / path).exists()]
    read = f"\n  read {' and '.join(pages)}" if pages else ""
    return f"""
{slug} is ready. Next:
  cd "{root}"
  uv run {slug} demo
Before the first push:{read}
  uv run {slug} doctor --ci"""


def main(answers: dict[str, Any]) -> None:
    """Finish the project in the current directory, then say what to type next."""
    # A path may hold characters that a Windows console cannot show.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    root = Path.cwd()
    drop_caches(root)
    wrap_rules(root)
    move(root, answers)
    prune(root, answers)
    keep_answers(root, answers)
    link(root, answers)
    for left_out in (lock(), commit(answers)):
        if left_out:
            print(f"Left out: {left_out}")
    print(next_steps(root, answers))


if __name__ == "__main__":
    main(json.loads(r"""{{ cookiecutter | jsonify }}"""))
