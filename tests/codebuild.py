"""A stand-in for CodeBuild: the phases of a buildspec in one shell, in their order.

As the service does: a secret or parameter that is missing ends the build before its first command;
the first command of a phase that fails ends the phase; only after a failure in `build` does
`post_build` run, too.
"""

import shlex
from collections.abc import Mapping
from typing import Any

PHASES = "install", "pre_build", "build", "post_build"
ENDS = {"install", "pre_build"}  # a failure in one of them ends the build


def script(spec: dict[str, Any], stored: Mapping[str, str], **given: str) -> str:
    """Return what bash is to run; `stored` holds parameters and secrets by their reference."""
    env = spec.get("env", {})
    values = env.get("variables", {}) | given
    for name, reference in (
        env.get("parameter-store", {}) | env.get("secrets-manager", {})
    ).items():
        if reference not in stored:
            return f"echo {shlex.quote(f'{reference} is missing')} >&2; exit 1"
        values[name] = stored[reference]
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in values.items()]
    lines.append("failed=0; ended=0")
    for phase in PHASES:
        commands = spec["phases"].get(phase, {}).get("commands", [])
        lines.append(f"phase=0; echo phase {phase}")
        lines += [
            f"if [ $ended$phase = 00 ]; then\n{command}\n[ $? -eq 0 ] || phase=1\nfi"
            for command in commands
        ]
        lines.append("[ $phase = 0 ] || failed=1")
        if phase in ENDS:
            lines.append("[ $phase = 0 ] || ended=1")
    return "\n".join([*lines, "exit $failed"])
