"""A stand-in for the service that runs a cloudbuild.yaml: its steps, one after the other."""

import re
from collections.abc import Callable, Mapping
from typing import Any

BUILT_IN = {
    "BUILD_ID": "0b1e",
    "COMMIT_SHA": "c0ffee",
    "LOCATION": "europe-west1",
    "PROJECT_ID": "p",
    "_BASE_BRANCH": "main",  # of a pull request
}
REFERENCE = re.compile(r"\$\$|\$\{?([A-Z_][A-Z0-9_]*)\}?")
Step = dict[str, Any]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace $NAME, and what stands in its value, as the service does."""
    for _ in range(3):
        text = REFERENCE.sub(lambda found: "$" if found[0] == "$$" else values[found[1]], text)
    return text


def run(build: dict[str, Any], do: Callable[[Step, list[str]], int], **given: str) -> list[str]:
    """Do the steps until one fails; return the ids of those that succeeded.

    `do` gets a step with every substitution in place, and its environment.
    """
    values = BUILT_IN | build.get("substitutions", {}) | given
    env = [fill(line, values) for line in build.get("options", {}).get("env", [])]
    done: list[str] = []
    for step in build["steps"]:
        filled = step | {
            "name": fill(step["name"], values),
            "args": [fill(arg, values) for arg in step.get("args", [])],
        }
        if do(filled, env) and not step.get("allowFailure"):
            break
        done.append(step["id"])
    return done


def references(text: str) -> set[str]:
    return {name for name in REFERENCE.findall(text) if name}
