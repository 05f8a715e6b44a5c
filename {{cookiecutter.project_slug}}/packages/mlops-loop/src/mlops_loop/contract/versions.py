"""Which mlops-loop made a contract or a bundle, and which of them this version reads."""

from importlib.metadata import version

VERSION = version("mlops-loop")
OLDEST = "1.0"  # that this one reads; raise it with what docs/migrate.md then must say


def series(text: str) -> tuple[int, int]:
    """Return major and minor of a version. Raises ValueError for a text that is none."""
    major, minor, *_ = text.split(".")
    return int(major), int(minor)


def problem(made_by: str | None) -> str:
    """Return why what that version made cannot be read here and how to go on, "" if it can be.

    None is the version that did not say so.
    """
    try:
        made = series(made_by or VERSION)
    except ValueError:
        return f"{made_by!r} is no version of mlops-loop, such as {VERSION}"
    if made > series(VERSION):
        return (
            f"made by mlops-loop {made_by}, and this is {VERSION}: install that one "
            "(`uv lock --upgrade-package mlops-loop`, or `cruft update`)"
        )
    if made < series(OLDEST):
        return (
            f"made by mlops-loop {made_by}, and {VERSION} reads {OLDEST} and later: "
            "follow the template's docs/migrate.md, or install that version"
        )
    return ""
