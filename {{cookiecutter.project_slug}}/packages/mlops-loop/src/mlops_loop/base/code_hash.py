"""Code hashes: which source files a model comes from, and what they say.

Line endings, comments, blank lines and docstrings do not count: they change no model.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import yaml

from mlops_loop.base.files import DVC, MODEL

PAGES = re.compile(r"/mlops_loop/(reporting/|.*_page\.py$)")  # how they look makes no model
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code() -> dict[str, str]:
    """Return the SHA-256 of each source file that the model comes from, by its path.

    These are the code dependencies of the stage that makes the model and of the stages before it,
    less how a page looks. Where the package is pinned, its version takes the place of its files.
    """
    found = set[Path]()
    for name in dependencies(MODEL.as_posix()):
        if name.startswith(("src/", "packages/")) and not PAGES.search(name):
            path = Path(name)
            found |= set(path.rglob("*.py")) if path.is_dir() else {path}
    hashes = {file.as_posix(): source_hash(file) for file in sorted(found) if file.is_file()}
    if hashes and not any(path.startswith("packages/") for path in hashes):
        hashes["mlops-loop"] = sha256(version("mlops-loop").encode()).hexdigest()
    return hashes


def dependencies(output: str) -> set[str]:
    """Return what an output of dvc.yaml comes from, over all the stages before."""
    stages = yaml.safe_load(DVC.read_text(encoding="utf-8"))["stages"] if DVC.is_file() else {}
    needed_by = {
        out: names(stage.get("deps", []))
        for stage in stages.values()
        for out in names(stage.get("outs", []))
    }
    done: set[str] = set()
    found = {output}
    while found:
        done |= found
        found = {dep for path in found for dep in needed_by.get(path, [])} - done
    return done


def names(paths: Iterable[str | Mapping[str, object]]) -> list[str]:
    """Return the paths in a list of dvc.yaml, of which each may be a mapping to its options."""
    return [path if isinstance(path, str) else str(next(iter(path))) for path in paths]


def source_hash(path: Path) -> str:
    """Return the SHA-256 of a file; of Python's, of what its source means."""
    content = path.read_bytes()
    if path.suffix == ".py":
        tree = ast.parse(content)
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        content = ast.unparse(tree).encode()
    return sha256(content).hexdigest()
