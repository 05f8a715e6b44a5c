"""What git knows of files: the few questions that onboarding asks it."""

import subprocess
from pathlib import Path

MEGABYTE = 1_000_000
DATA = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".gz", ".zst")


def run(*program: str) -> subprocess.CompletedProcess[str]:
    """Run a program here; one that is not installed fails as in a shell."""
    try:
        return subprocess.run(program, capture_output=True, text=True)
    except FileNotFoundError:
        return subprocess.CompletedProcess(program, 127, "", f"{program[0]} is not installed")


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("git", *arguments)


def would_commit(path: Path) -> bool:
    """Return whether `git add --all` would commit a file; False outside of a repository."""
    return git("check-ignore", "--quiet", "--", str(path)).returncode == 1


def is_tracked(path: Path) -> bool:
    return git("ls-files", "--error-unmatch", "--", str(path)).returncode == 0


def holds(path: Path) -> bool:
    """Return whether the last commit holds a file as it is here."""
    changed = git("status", "--porcelain", "--", str(path))
    return is_tracked(path) and not changed.returncode and not changed.stdout


def tracked_data() -> list[Path]:
    """Return the tables of more than a megabyte that git tracks below this folder."""
    paths = [Path(name) for name in git("ls-files", "-z").stdout.split("\0") if name]
    tables = [path for path in paths if path.suffix.lower() in DATA and path.is_file()]
    return [path for path in tables if path.stat().st_size > MEGABYTE]
