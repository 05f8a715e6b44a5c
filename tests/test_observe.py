"""The rules and routes, in the programs that read them: each rule is seen red, and silent."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import TREE, Project, copy, execute
from tools import need_program

OBSERVE = "deploy/observe"


def program(name: str) -> Callable[..., str]:
    """Return a function that runs a program; skip the test without it."""
    need_program(name, "prometheus", "prometheus-alertmanager")

    def run(*args: str | Path, cwd: Path, fails: bool = False) -> str:
        done = execute(name, *args, cwd=cwd)
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_prometheus_takes_its_configuration_and_rules(rendered: Project) -> None:
    promtool = program("promtool")
    said = promtool("check", "config", "prometheus.yml", cwd=rendered.path / OBSERVE)
    assert "14 rules found" in said


def test_each_rule_is_red_on_its_trouble_and_silent_without(rendered: Project) -> None:
    promtool = program("promtool")
    promtool("test", "rules", "rules_test.yml", cwd=rendered.path / OBSERVE)
    tests = yaml.safe_load((rendered.path / OBSERVE / "rules_test.yml").read_text("utf-8"))["tests"]
    rules = yaml.safe_load((rendered.path / OBSERVE / "rules.yml").read_text("utf-8"))["groups"]
    names = {rule["alert"] for group in rules for rule in group["rules"]}
    looks = [look for test in tests for look in test["alert_rule_test"]]
    assert {look["alertname"] for look in looks if look.get("exp_alerts")} == names
    assert {look["alertname"] for look in tests[0]["alert_rule_test"]} == names
    assert not any(look.get("exp_alerts") for look in tests[0]["alert_rule_test"])


@pytest.mark.slow
@pytest.mark.rare
def test_a_rule_that_is_blunted_is_noticed(rendered: Project, tmp_path: Path) -> None:
    """The tests of the rules are worth something: they fail if one of them cannot fire."""
    promtool = program("promtool")
    folder = copy(rendered, tmp_path).path / OBSERVE
    text = (folder / "rules.yml").read_text("utf-8")
    expressions = re.findall(r"expr: (?:>-\n)?(.*(?:\n {10}\S.*)*)", text)
    assert len(expressions) == text.count("alert:")
    for expression in expressions:
        blunted = text.replace(expression, f"{' ' * 10}vector(1) == 0")
        (folder / "rules.yml").write_text(blunted.replace("expr:           vector", "expr: vector"))
        promtool("check", "rules", "rules.yml", cwd=folder)
        promtool("test", "rules", "rules_test.yml", cwd=folder, fails=True)


def test_alertmanager_takes_its_configuration(rendered: Project, tmp_path: Path) -> None:
    amtool = program("amtool")
    folder = copy(rendered, tmp_path).path / OBSERVE
    (version,) = re.findall(r"amtool, version (\d+)\.(\d+)", amtool("--version", cwd=folder))
    text = (folder / "alertmanager.yml").read_text("utf-8")
    if tuple(map(int, version)) < (0, 26):  # knows a URL in a file of Slack, and not of others
        text = text.replace("url_file: /run/secrets/alert_webhook", "url: http://127.0.0.1:9")
        (folder / "alertmanager.yml").write_text(text)
    assert "SUCCESS" in amtool("check-config", "alertmanager.yml", cwd=folder)
    routes = "config", "routes", "test", "--config.file=alertmanager.yml"
    for severity, receiver in (("page", "pages"), ("ticket", "tickets"), ("", "tickets")):
        assert receiver in amtool(*routes, f"severity={severity}", cwd=folder).split()


def test_nothing_observes_unless_it_is_asked_to(rendered: Project) -> None:
    compose = yaml.safe_load((rendered.path / "deploy/compose.yaml").read_text("utf-8"))
    observing = {"prometheus", "alertmanager", "grafana"}
    asked = {name for name, one in compose["services"].items() if "profiles" in one}
    assert asked == observing
    for name in observing:
        service = compose["services"][name]
        assert (service["profiles"], service["read_only"]) == (["observe"], True)
        assert (service["cap_drop"], service["security_opt"]) == (
            ["ALL"],
            ["no-new-privileges:true"],
        )
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (rendered.path / "deploy" / source).exists()
                assert volume.endswith(":ro")


def test_their_own_braces_are_left_to_prometheus_and_grafana(rendered: Project) -> None:
    for path in (TREE / OBSERVE).rglob("*"):
        if path.is_file():
            text = path.read_text("utf-8")
            assert "cookiecutter" not in text
            assert (rendered.path / path.relative_to(TREE)).read_text("utf-8") == text
