"""The rendered project: a copy to play in, its verbs, and the files that a user would edit."""

import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from showcase import documents
from showcase.processes import Failure, Finished, Processes

COPIED = (
    *("schema.yaml", "params.yaml", "behaviour.yaml", "dvc.yaml", "pyproject.toml"),
    *("src", "packages"),
)
CHAMPION = Path("build/champion")
FROZEN = Path("build/frozen")  # the first model, which goes on in the shadow
PARAMS = Path("params.yaml")
LOG = "predictions.db"
# Settings of the person who runs the showcase must not reach the registry, log and server in it.
FOREIGN = (
    *("ALERT_", "API_KEYS", "BUNDLE", "CHALLENGER", "DVC_", "MAX_BODY_MB", "MLFLOW_", "OTEL_"),
    *("PREDICTION_", "PYTHONHOME", "PYTHONPATH", "RATE_LIMIT", "SENSITIVE_KEY", "TRAFFIC"),
    *("UV_PROJECT", "UV_WORKING_DIR", "VIRTUAL_ENV", "PII_KEY"),
)


@dataclass(frozen=True)
class Workspace:
    """A folder in which the verbs of the project at `origin` run, with its own registry and log."""

    origin: Path
    slug: str
    folder: Path
    settings: Mapping[str, str]
    processes: Processes

    @property
    def log_url(self) -> str:
        return self.settings["PREDICTION_LOG_URL"]

    @property
    def environment(self) -> dict[str, str]:
        """What processes in this folder get: the caller's environment with other settings."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)}
        return kept | dict(self.settings) | {"PYTHONIOENCODING": "utf-8"}

    def command(self, *arguments: str) -> list[str]:
        """Return a command line that runs in the project's environment, whatever the folder."""
        return ["uv", "run", "--no-sync", "--project", str(self.origin), *arguments]

    def run(self, *arguments: str, accepted: tuple[int, ...] = (0,)) -> Finished:
        """Run a command in the project's environment; Failure for another exit code."""
        command = self.command(*arguments)
        log = self.folder / "showcase.log"
        done = self.processes.run(command, self.folder, self.environment, log)
        if done.code not in accepted:
            last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            raise Failure(f"`{' '.join(arguments)}` ended with {done.code}: {last}")
        return done

    def verb(self, *arguments: str, accepted: tuple[int, ...] = (0,)) -> Finished:
        """Run a verb of the project."""
        return self.run(self.slug, *arguments, accepted=accepted)

    def reproduce(self) -> None:
        """Run the pipeline."""
        self.run("dvc", "repro")

    def version(self, bundle: Path = CHAMPION) -> str:
        """Return the version of a promoted bundle."""
        return documents.read(self.folder / bundle / "promotion.json", documents.Promotion).version

    def bundle(self, folder: Path = CHAMPION) -> documents.Bundle:
        return documents.read(self.folder / folder / "bundle.json", documents.Bundle)

    def monitor(self, start: datetime, end: datetime) -> documents.MonitorSummary:
        """Monitor a window of whole days of the log; exit code 3 says that there are alarms."""
        days = str((end - start).days)
        self.verb("monitor", "--days", days, "--until", f"{end:%Y-%m-%d}", accepted=(0, 3))
        latest = self.folder / "reports/monitor/latest.json"
        return documents.read(latest, documents.MonitorSummary)


def copy_project(origin: Path, folder: Path, processes: Processes) -> Workspace:
    """Copy contract, parameters, pipeline and code of the project at `origin` to `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        source = origin / name
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # It is no repository of git; and what the project's own pipeline computed need not be again.
    cache = (origin / ".dvc/cache").as_posix()
    (folder / ".dvc").mkdir()
    text = f"[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = {cache}\n"
    (folder / ".dvc/config").write_text(text, "utf-8")
    about = tomllib.loads((origin / "pyproject.toml").read_text("utf-8"))
    slug = str(about["project"]["name"])
    return Workspace(origin, slug, folder, settings(folder, folder), processes)


def beside(workspace: Workspace, folder: Path, bundle: Path) -> Workspace:
    """Return a workspace in `folder` with a log of its own, which looks at another bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("schema.yaml", "params.yaml"):
        shutil.copy(workspace.folder / name, folder)
    found = settings(workspace.folder, folder) | {"BUNDLE": str(bundle)}
    return replace(workspace, folder=folder, settings=found)


def settings(root: Path, folder: Path) -> dict[str, str]:
    """Return settings for work in `folder`: the showcase's registry and champion, a log there."""
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{(root / 'mlflow.db').as_posix()}",
        "PREDICTION_LOG_URL": f"sqlite:///{(folder / LOG).as_posix()}",
        "BUNDLE": str(root / CHAMPION),
        "CHALLENGER": str(root / "build/challenger"),
        "ALERT_FILE": str(folder / "alerts.jsonl"),
        # Several processes compute: those whose threads wait must not keep the others from it.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def load_params(folder: Path) -> dict[str, Any]:
    """Return params.yaml, as the user would read it."""
    return dict(yaml.safe_load((folder / PARAMS).read_text("utf-8")))


def edit_params(folder: Path, changes: Mapping[str, Mapping[str, str | int | None]]) -> None:
    """Change keys of params.yaml, by section, as a user would by hand."""
    params = load_params(folder)
    for section, values in changes.items():
        params[section].update(values)
    text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
    (folder / PARAMS).write_text(text, "utf-8")
