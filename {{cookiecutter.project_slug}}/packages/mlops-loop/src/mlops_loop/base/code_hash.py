"""Code hashes: which source files a model comes from, and what they say.

Line endings, comments and blank lines do not count: they change no model.
"""

import re
import tokenize
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import yaml

from mlops_loop.base.files import DVC, MODEL

PAGES = re.compile(r"/mlops_loop/(reporting/|.*_page\.py$)")  # how they look makes no model


def code() -> dict[str, str]:
    """Return the SHA-256 of each source file that the model comes from, by its path.

    These are the code dependencies of the stage that makes the model and of the stages before it,
    less how a page looks. Where the package is pinned, its version takes the place of its files.
    Where there is no dvc.yaml there is no such file.
    """
    sources = [
        Path(path)
        for path in dependencies(MODEL.as_posix())
        if path.startswith(("src/", "packages/")) and not PAGES.search(path)
    ]
    found = {file for path in sources for file in (path.rglob("*.py") if path.is_dir() else [path])}
    hashes = {file.as_posix(): source_hash(file) for file in sorted(found) if file.is_file()}
    if hashes and not any(path.startswith("packages/") for path in hashes):
        hashes["mlops-loop"] = sha256(version("mlops-loop").encode()).hexdigest()
    return hashes


def dependencies(output: str) -> set[str]:
    """Return what an output of dvc.yaml comes from, over all the stages before."""
    stages = yaml.safe_load(DVC.read_text(encoding="utf-8"))["stages"] if DVC.is_file() else {}
    needed = [output]
    done: set[str] = set()
    while needed:
        path = needed.pop()
        done.add(path)
        for stage in stages.values():
            if path in names(stage.get("outs", [])):
                needed += [dep for dep in names(stage.get("deps", [])) if dep not in done]
    return done


def names(paths: Iterable[str | Mapping[str, object]]) -> list[str]:
    """Return the paths in a list of dvc.yaml, of which each may be a mapping to its options."""
    return [path if isinstance(path, str) else str(next(iter(path))) for path in paths]


def source_hash(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".py":
        content = without_comments(content.decode("utf-8")).encode()
    return sha256(content).hexdigest()


def without_comments(source: str) -> str:
    """Return Python source without comments, blank lines and spaces at the ends of lines."""
    source = source.replace("\r\n", "\n")
    lines = source.split("\n")
    try:
        for token in tokenize.generate_tokens(StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    except (tokenize.TokenError, SyntaxError):
        return source  # no Python that anything could import
    return "\n".join(line.rstrip() for line in lines if line.strip())
