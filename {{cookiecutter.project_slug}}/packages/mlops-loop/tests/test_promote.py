import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.cli import build as verbs
from mlops_loop.contract.schema import Column, load_schema
from mlops_loop.data import tables
from mlops_loop.release import champion
from mlops_loop.release import promote as promotions
from mlops_loop.release.audit import AuditLog, Line
from mlops_loop.release.candidate import with_champion_inputs
from mlops_loop.release.promote import Promotion
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.tracking.registry import EmbeddedRegistry, Version, open_registry
from mlops_loop.tracking.session import experiment_name, session

from .conftest import SERVER, change, model_file, run_stages, use_registry

SERVED = Path("build/champion")
# Gates that other tests are about: they take time, or refuse a model that is to be a weak champion.
OFF = dict.fromkeys(
    ("server", "latency", "behaviour", "slices", "calibration", "baseline", "leakage", "parity")
)

# All that changes something for others to see.
CHANGES = (
    *((EmbeddedRegistry, name) for name in ("set_tag", "set_alias", "delete_alias")),
    *((mlflow.MlflowClient, name) for name in ("log_artifact", "log_artifacts")),
    *((mlflow, "register_model"), (AuditLog, "append"), (Path, "replace")),
)


class Killed(BaseException):
    """What ends a promotion anywhere."""


def promote() -> Promotion:
    """Promote as the verb does, which ends with a Refusal if a gate refuses."""
    return promotions.promote().checked()


def aliases() -> dict[str, str]:
    versions = open_registry(load_settings()).versions()
    return {alias: version.number for version in versions for alias in version.aliases}


def version(number: str) -> Version:
    return open_registry(load_settings()).by_number(number)


def lines() -> Sequence[Line]:
    return AuditLog(load_settings()).lines()


def events() -> list[str]:
    return [line.event for line in lines()]


@pytest.fixture
def served(project, monkeypatch) -> Path:
    """The project, with a folder for the champion, and only the gates that compare models."""
    monkeypatch.setenv("BUNDLE", str(SERVED))
    rivals = {"min_gain": 0.0, "confidence": 0.8, "resamples": 100}
    change(files.PARAMS, "gates", champion=rivals, **OFF)
    return project


@pytest.fixture(scope="session")
def trained(finished, tmp_path_factory) -> Path:
    """Two trained models: one on targets that were mixed up, and an honest one."""
    folder = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(finished, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_registry(patch, folder)
        honest = tables.read_table(files.TRAIN)
        targets = honest[load_schema().target]
        mixed = targets.sample(frac=1, random_state=1).to_numpy()
        for name, labels in (("mixed", mixed), ("honest", targets)):
            tables.write_table(files.TRAIN, honest.assign(**{targets.name: labels}))
            run_stages("train", "evaluate", "export")
            shutil.copytree(files.BUNDLE, folder / name / "bundle")
            for path in (files.MODEL, files.TRAIN):
                shutil.copy(path, folder / name)
    return folder


@pytest.fixture
def rivals(served, trained) -> dict[str, Path]:
    return {name: trained / name for name in ("honest", "mixed")}


def use(rival: Path) -> None:
    shutil.rmtree(files.BUNDLE)
    shutil.copytree(rival / "bundle", files.BUNDLE)
    for path in (files.MODEL, files.TRAIN):
        shutil.copy(rival / path.name, path)


def test_the_better_is_crowned_the_worse_kept_as_challenger_and_all_is_written_down(
    rivals, monkeypatch
):
    use(rivals["mixed"])
    first = promote()
    assert first.version == open_bundle(SERVED).version == "1"
    assert aliases() == {"champion": "1"}
    again = promote()
    assert (again.outcome, again.version, again.gates) == ("unchanged", "1", [])
    use(rivals["honest"])
    assert promote().version == open_bundle(SERVED).version == "2"
    assert aliases() == {"champion": "2", "previous": "1"}
    use(rivals["mixed"])
    with pytest.raises(Refusal, match=r"version 1 stays a challenger: .*champion"):
        promote()
    assert aliases() == {"champion": "2", "previous": "1", "challenger": "1"}
    assert open_bundle(SERVED).version == "2"
    kept = lines()
    told = [(line.event, line.facts.version) for line in kept]
    assert told == [("promoted", "1"), ("promoted", "2"), ("refused", "1")]
    refused = version("1")
    assert refused.tags["refused"] == kept[-1].facts.reason
    assert json.loads(refused.tags["gates"]) == kept[-1].told["gates"]
    with session(load_settings()) as client:
        cards = [file.path for file in client.list_artifacts(refused.run_id, "card/version-1")]
        assert "card/version-1/card.md" in cards
        # What MLflow itself reads is what was written into its tables.
        there = client.get_model_version_by_alias(experiment_name(), "challenger")
        assert (str(there.version), there.tags) == ("1", refused.tags)
    assert {"git_commit", "data_sha256", "bundle_sha256"} <= set(kept[0].told)


def test_what_is_not_whole_or_not_made_of_this_data_is_not_judged(served):
    with (files.BUNDLE / "bundle.json").open("a") as manifest:
        manifest.write(" ")
    promote()  # another hash, but nothing in it has changed
    with (SERVED / "bundle.json").open("a") as manifest:
        manifest.write(" ")
    with pytest.raises(Refusal, match=r"bundle\.json was changed"):
        open_bundle(SERVED)
    promote()
    assert open_bundle(SERVED).version == "1"  # mended
    with model_file().open("ab") as model:
        model.write(b"x")
    with pytest.raises(Refusal, match=r"model\.\w+ is missing or was changed"):
        promote()
    run_stages("export")
    tables.write_table(files.TEST, tables.read_table(files.TEST).head(100))
    with pytest.raises(Failure, match=r"was not made from this data/test\.parquet"):
        promote()
    run_stages("split", "train", "evaluate", "export")
    change(files.PARAMS, "evaluate", min_slice_rows=7)
    with pytest.raises(Failure, match=r"was not made from this params\.yaml"):
        promote()


def test_uncommitted_changes_are_said_and_a_later_commit_is_recorded(rivals, capsys):
    def commit() -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        for command in (("add", "params.yaml"), (*identity, "commit", "--message", "work")):
            subprocess.run(["git", *command], check=True, capture_output=True)

    subprocess.run(["git", "init", "--quiet"], check=True)
    commit()
    change(files.PARAMS, "gates", "size", max_megabytes=49)
    use(rivals["honest"])
    promote()
    assert "uncommitted changes" in capsys.readouterr().err
    assert version("1").tags["git_commit"].endswith("-dirty")
    commit()
    promote()
    assert len(version("1").tags["git_commit"]) == 40
    assert events() == ["promoted", "committed"]
    verbs.audit()


def test_the_candidate_s_own_folder_is_not_the_champion_s(project):
    with pytest.raises(Failure, match="the candidate's own folder"):
        promote()


def test_a_column_may_be_dropped_and_the_champion_is_still_compared(served):
    promote()
    gone = list(load_schema().features)[-1]
    change(files.SCHEMA, "columns", **{gone: None})
    files.BEHAVIOUR.write_text("{}")
    run_stages("ingest", "validate", "split", "train", "evaluate", "export")
    assert gone not in tables.read_table(files.TEST)
    found = {result.gate: result for result in promotions.promote().gates}
    assert found["champion"].measure.startswith("gain in")
    assert found["labels"].value is not None
    # The source no longer has it: the gate says what to do.
    source = Path("sample.parquet")
    tables.write_table(source, tables.read_table(source).drop(columns=gone))
    refused = {result.gate: result for result in promotions.promote().gates}["champion"]
    assert refused.passed is False
    assert f"predicts from {gone!r}, of type" in refused.measure
    assert "set gates.champion in params.yaml to null" in refused.measure


def test_a_champion_that_takes_a_column_for_something_else_scores_its_own(served):
    schema, window = load_schema(), tables.read_table(files.TEST)
    name = next(name for name in schema.numeric if not schema.columns[name].derived)
    as_text = Column(type="category", categories=("0",), allow_unknown=True)
    champion = schema.model_copy(update={"columns": {**schema.columns, name: as_text}})
    found = with_champion_inputs(champion, schema, window, load_params())
    assert found[name].dropna().map(type).eq(str).all()
    assert found.drop(columns=name).equals(window.drop(columns=name))


def test_roll_back_there_and_back_again(rivals):
    with pytest.raises(Failure, match="no champion"):
        champion.roll_back(None, "")
    use(rivals["mixed"])
    promote()
    with pytest.raises(Failure, match="no champion before"):
        champion.roll_back(None, "")
    use(rivals["honest"])
    promote()
    champion.roll_back(None, "a bad day")
    assert aliases() == {"champion": "1", "previous": "2"}
    assert open_bundle(SERVED).version == "1"
    with pytest.raises(Refusal, match=r"version 2 was rolled back: .* a bad day"):
        promote()
    with pytest.raises(Failure, match="version 1 is champion already"):
        champion.roll_back("1", "")
    with pytest.raises(Failure, match="no version 7"):
        champion.roll_back("7", "")
    with pytest.raises(Failure, match="name a VERSION"):  # version 2 is what was rolled back
        champion.roll_back(None, "")
    shutil.rmtree(SERVED)
    champion.roll_back("2", "it was not the model")
    assert aliases() == {"champion": "2", "previous": "1"}
    assert promote().outcome == "unchanged"
    use(rivals["mixed"])  # which was only left again, not rolled back
    with pytest.raises(Refusal, match="version 1 stays a challenger"):
        promote()
    with (files.BUNDLE / "bundle.json").open("a") as manifest:
        manifest.write(" ")
    with pytest.raises(Refusal, match="version 3 stays a challenger"):
        promote()
    with pytest.raises(Refusal, match="version 3 was never champion"):
        champion.roll_back("3", "")
    champion.roll_back(None, "again")
    assert aliases()["champion"] == "1"
    returned = [line.facts.reason for line in lines() if line.event == "returned"]
    assert returned == ["it was not the model"]
    verbs.audit(as_json=True)


def test_an_alias_moved_by_hand_is_moved_back(rivals):
    use(rivals["mixed"])
    promote()
    use(rivals["honest"])
    promote()
    champion.roll_back("1", "")
    with session(load_settings()) as client:
        source = client.get_model_version(experiment_name(), "2").source
        mlflow.register_model(source, experiment_name())
        client.set_registered_model_alias(experiment_name(), "champion", "3")
    with pytest.raises(Refusal, match="version 3, but the log has no promotion of it"):
        verbs.audit()
    with pytest.raises(Refusal, match="version 2 was rolled back"):
        promote()
    assert aliases() == {"champion": "1", "previous": "2"}
    assert lines()[-1].event == "restored"
    assert "moved to version 3" in lines()[-1].facts.reason
    verbs.audit()


def test_nothing_is_promoted_by_a_log_that_was_tampered_with(rivals, monkeypatch):
    use(rivals["mixed"])
    promote()
    use(rivals["honest"])
    with sqlite3.connect("predictions.db") as database:
        database.execute("UPDATE audit_log SET by = 'x'")
    for verb in (verbs.audit, promote):
        with pytest.raises(Refusal, match="line 1 was changed"):
            verb()
    monkeypatch.setenv("PREDICTION_LOG_URL", "sqlite:///other.db")
    with pytest.raises(Refusal, match=r"the line about version 1 is missing.*PREDICTION_LOG_URL"):
        promote()
    assert aliases() == {"champion": "1"}


def kill_before(number: int, patch: pytest.MonkeyPatch) -> None:
    """End what runs before this change, counted from 1, and before every later one."""
    before = iter(range(1, number))

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if next(before, None) is None:
                raise Killed
            return change(*given, **named)

        return call

    for owner, name in CHANGES:
        patch.setattr(owner, name, counted(getattr(owner, name)))


def test_a_killed_promotion_leaves_one_champion_and_the_next_heals_the_rest(rivals, monkeypatch):
    if SERVER.startswith("http"):
        pytest.skip("needs a registry that can be copied")
    use(rivals["mixed"])
    assert promote().version == "1"
    use(rivals["honest"])
    start = Path.cwd()
    cut = set()
    for step in count(1):
        folder = shutil.copytree(start, start.with_name(str(step)))
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        with monkeypatch.context() as patch, suppress(Killed):
            kill_before(step, patch)
            promote()
            break
        found = aliases()
        cut.add((found["champion"], found.get("previous"), len(lines())))
        promote()
        assert aliases() == {"champion": "2", "previous": "1"}
        assert open_bundle(SERVED).version == "2"
        assert events() == ["promoted", "promoted"]
        verbs.audit()
    assert step > 10
    # It was cut before the decision, between that and each of the aliases, and after.
    assert cut == {("1", None, 1), ("1", None, 2), ("1", "1", 2), ("2", "1", 2)}


@pytest.mark.parametrize(("owner", "name"), [(mlflow, "register_model"), (AuditLog, "sign")])
def test_of_two_promotions_at_the_same_time_one_wins_and_the_other_says_so(
    rivals, monkeypatch, owner, name
):
    call = getattr(owner, name)

    def meanwhile(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(owner, name, call)
        promote()  # as another process does
        return call(*given, **named)

    monkeypatch.setattr(owner, name, meanwhile)
    use(rivals["honest"])
    with pytest.raises(Failure, match="meanwhile another process did this: promoted 1"):
        promote()
    assert open_bundle(SERVED).version == aliases()["champion"] == "1"
    assert events() == ["promoted"]
    assert len(open_registry(load_settings()).versions()) == 1
    verbs.audit()
