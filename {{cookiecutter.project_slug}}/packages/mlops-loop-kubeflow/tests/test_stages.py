"""dvc.yaml is read as it is; what makes no step is refused in one line."""

import copy
from pathlib import Path

import pytest
from conftest import STAGES, write_stages
from mlops_loop.base.errors import Failure

from mlops_loop_kubeflow.stages import (
    Artifact,
    artifacts,
    code_hash,
    load_stages,
    produced,
    run_key,
    stage_params,
    upstream,
)

pytestmark = pytest.mark.usefixtures("project")


def test_the_order_follows_what_they_read() -> None:
    stages = load_stages()
    assert list(stages) == ["copy", "count", "report"]
    assert [upstream(stages[name], stages) for name in stages] == [[], ["copy"], ["copy", "count"]]
    assert produced(stages["report"], stages) == ["data/copy.txt", "count.json"]
    assert stage_params(stages["copy"]) == {"copy": {"how": "plain"}, "limits.small": 1e-05}


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ({"foreach": ["a"], "do": {"cmd": "x"}}, "has 'foreach'"),
        ({"matrix": {"a": [1]}, "cmd": "x"}, "has 'matrix'"),
        ({"cmd": "run ${name}"}, "has '${...}'"),
        ({"cmd": "x", "deps": ["${data}"]}, "has '${...}'"),
        ({"cmd": "x", "wdir": "sub"}, "has 'wdir'"),
        ({"cmd": "x", "frozen": True}, "has 'frozen'"),
        ({"cmd": "x", "unheard": 1}, "unheard"),
        ({"deps": ["a"]}, "cmd"),
    ],
)
def test_refuses_what_makes_no_step(stage: dict[str, object], line: str) -> None:
    write_stages({**STAGES, "odd": stage})
    with pytest.raises(Failure, match=r"^dvc.yaml, line \d+: stages.odd") as failure:
        load_stages()
    assert line in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_shell_s_own_variable_is_no_template() -> None:
    write_stages({"one": {"cmd": r"echo \${HOME}", "outs": ["x"]}})
    assert load_stages()


def test_refuses_a_circle() -> None:
    changed = copy.deepcopy(STAGES)
    changed["copy"]["deps"] = ["page.html"]
    write_stages(changed)
    with pytest.raises(Failure, match=r"need each other: "):
        load_stages()


def test_the_hash_knows_the_stage_s_own_files_alone() -> None:
    stages = load_stages()
    before = {name: code_hash(stage, stages) for name, stage in stages.items()}
    key = run_key(stages)
    Path("words.txt").write_text("four\n")
    after = {name: code_hash(stage, stages) for name, stage in stages.items()}
    assert [name for name in before if before[name] != after[name]] == ["copy"]
    assert run_key(stages) != key


def test_what_dvc_tracks_is_known_by_its_dvc_file() -> None:
    stages = load_stages()
    Path("words.txt.dvc").write_text("outs: [{md5: abc, path: words.txt}]")
    tracked = code_hash(stages["copy"], stages)
    Path("words.txt").unlink()
    assert code_hash(stages["copy"], stages) == tracked


def test_names_what_is_missing() -> None:
    stages = load_stages()
    Path("words.txt").unlink()
    with pytest.raises(Failure, match=r"words.txt is missing"):
        code_hash(stages["copy"], stages)
    Path("params.yaml").write_text("copy: 1\n")
    with pytest.raises(Failure, match=r"params.yaml has no key 'limits.small'"):
        stage_params(stages["copy"])


def test_what_kubeflow_shows() -> None:
    stages = load_stages()
    assert artifacts(stages["copy"]) == {}
    assert artifacts(stages["count"]) == {"count": Artifact("Metrics", "count.json")}
    assert artifacts(stages["report"]) == {"page": Artifact("HTML", "page.html")}
    bundle = stages["copy"].model_copy(update={"outs": ["build/bundle", "a/card.html"]})
    assert set(artifacts(bundle)) == {"card", "build_bundle_card_html"}
