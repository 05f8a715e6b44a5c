"""Errors that a user can mend: one line on what is wrong and how to mend it."""

import re
import sys
from collections.abc import Callable

HINTS = {
    FileNotFoundError: " - is this the project's folder?",
    PermissionError: " - who owns it, and may this user read and write it?",
}


class Failure(Exception):
    """Something is missing, broken or out of reach: exit code 1."""

    code = 1
    word = "error"


class Refusal(Failure):
    """A check ran and says no: exit code 3."""

    code = 3
    word = "refused"


def redacted(text: str) -> str:
    """Return a text without the names and passwords in its URLs."""
    return re.sub(r"//\S*@", "//", text)


def run(main: Callable[[], object]) -> None:
    """Call `main` and end the process with the right exit code."""
    try:
        main()
    except Failure as failure:
        print(f"{failure.word}: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except OSError as error:
        print(f"error: {error}{HINTS.get(type(error), '')}", file=sys.stderr)
        sys.exit(1)
