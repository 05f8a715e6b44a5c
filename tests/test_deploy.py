"""The deployment: files that lint; images that are built, run without rights, asked, stopped."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import TREE, Project, execute
from containers import STANDINS, docker, need_engine, need_image
from tools import need_program

KEY = "k3y"
SECRETS = {"API_KEYS": f"tester:{KEY}", "POSTGRES_PASSWORD": "p@ss:/w%rd$"}
DOCKERFILE = (TREE / "deploy/Dockerfile").read_text("utf-8")
LEAST = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_hadolint(rendered: Project) -> None:
    rendered.run("hadolint", "deploy/Dockerfile")


def test_compose_schema(rendered: Project) -> None:
    rendered.run(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml"
    )


def test_images_are_named_once() -> None:
    """A stand-in or a mirror is one build argument away."""
    lines = [line.split() for line in DOCKERFILE.splitlines() if line.startswith("FROM ")]
    sources, stages = {words[1] for words in lines}, {words[3] for words in lines}
    assert sources - stages == {"${PYTHON_IMAGE}", "${UV_IMAGE}"}


def test_compose_config_needs_every_secret(rendered: Project) -> None:
    need_program("docker")
    if rendered.run("docker", "compose", "version", check=False).returncode:
        pytest.skip("Docker's plugin compose is not installed")
    config = ("docker", "compose", "--file", "deploy/compose.yaml", "config", "--quiet")
    rendered.run(*config, env=SECRETS)
    for name in SECRETS:
        done = rendered.run(
            *config, check=False, env={k: v for k, v in SECRETS.items() if k != name}
        )
        assert done.returncode
        assert f"required variable {name} is missing" in done.stderr


@dataclass(frozen=True)
class Stack:
    """What compose.yaml brings up, on free ports."""

    project: Project
    env: dict[str, str]

    def compose(self, *args: str, check: bool = True) -> str:
        return docker("compose", "--file", self.file, *args, check=check, **self.env)

    @property
    def file(self) -> str:
        return str(self.project.path / "deploy/compose.yaml")

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.env['API_PORT']}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.env['MLFLOW_PORT']}"

    def sql(self, query: str) -> str:
        return self.compose("exec", "-T", "postgres", "psql", "-U", "postgres", "-Atc", query)

    def predict(self, key: str = KEY) -> httpx.Response:
        schemas = httpx.get(f"{self.api}/openapi.json").json()["components"]["schemas"]
        return httpx.post(
            f"{self.api}/v1/predict", json=schemas["Rows"]["example"], headers={"X-API-Key": key}
        )


@pytest.fixture(scope="module")
def image(pipeline: Project) -> str:
    """Build the API's image from a promoted bundle."""
    need_engine()
    lines = (pipeline.path / "deploy/Dockerfile").read_text("utf-8").splitlines()
    for name in (
        line.partition("=")[2] for line in lines if line.startswith("ARG ") and "_IMAGE=" in line
    ):
        need_image(name)
    name = f"{pipeline.slug}:local"
    docker("build", "--file", pipeline.path / "deploy/Dockerfile", "--tag", name, pipeline.path)
    return name


@pytest.fixture(scope="module")
def stack(pipeline: Project, image: str) -> Iterator[Stack]:
    services = yaml.safe_load((pipeline.path / "deploy/compose.yaml").read_text("utf-8"))[
        "services"
    ]
    need_image(services["postgres"]["image"])
    ports = {"API_PORT": free_port(), "MLFLOW_PORT": free_port()}
    stack = Stack(pipeline, SECRETS | ports | {"COMPOSE_PROJECT_NAME": "template-test"})
    try:
        stack.compose("down", "--volumes", "--remove-orphans", check=False)  # of a run cut short
        stack.compose("up", "--build", "--detach", "--wait", "--wait-timeout", "240")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", check=False)


Start = Callable[..., str]


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Return a function that runs the image with the least rights, without a network."""
    started = []

    def start(*options: str) -> str:
        started.append(docker("run", "--detach", "--network", "none", *LEAST, *options, image))
        return started[-1]

    yield start
    for name in started:
        docker("rm", "--force", "--volumes", name, check=False)


def state(container: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(docker("inspect", container))[0]["State"]
    return result


def log(container: str) -> str:
    done = execute("docker", "logs", container, cwd=TREE)
    return done.stdout + done.stderr


def wait_for(
    container: str, done: Callable[[dict[str, Any]], bool], seconds: float = 60
) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = state(container)
        if done(now):
            return now
        if not now["Running"]:
            break
        time.sleep(0.5)
    pytest.fail(log(container))


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
class TestImage:
    def test_is_small_and_holds_no_training_library(self, image: str) -> None:
        base = re.findall(r"^ARG PYTHON_IMAGE=(.*)", DOCKERFILE, re.M)
        size, of_base = (one["Size"] for one in json.loads(docker("inspect", image, *base)))
        assert size - of_base <= 215 * 2**20
        absent = (
            "mlflow",
            "dvc",
            "evidently",
            "great_expectations",
            "pandas",
            "sklearn",
            "pip",
            "uv",
        )
        question = f"import importlib.util as u; print([m for m in {absent} if u.find_spec(m)])"
        found = docker(
            "run", "--rm", "--network", "none", image, "/venv/bin/python", "-Ic", question
        )
        assert found == "[]"

    def test_a_start_compiles_nothing(self, image: str) -> None:
        """Neither can what it compiles be kept: its user may not write there."""
        script = "python -v -c 'import mlops_loop.serving.app' 2>&1 | grep '^# code object from'"
        loaded = docker("run", "--rm", "--network", "none", image, "sh", "-c", script).splitlines()
        assert len(loaded) > 500
        assert [line for line in loaded if not line.endswith(".pyc'")] == []

    def test_serves_without_rights_or_network_and_stops_at_once(self, start: Start) -> None:
        container = start("--env", f"API_KEYS={SECRETS['API_KEYS']}")
        wait_for(container, lambda now: now["Health"]["Status"] == "healthy")
        assert "probabilities" in docker("exec", container, "flight-delays", "smoke")
        assert docker("exec", container, "id", "-u") != "0"
        assert "Read-only" in docker("exec", container, "sh", "-c", "touch /app/x 2>&1; true")
        began = time.monotonic()
        docker("stop", container)
        assert time.monotonic() - began < 5
        assert state(container)["ExitCode"] == 0

    def test_refuses_to_start_without_keys(self, start: Start) -> None:
        container = start()
        assert wait_for(container, lambda now: not now["Running"])["ExitCode"] == 1
        (line,) = log(container).splitlines()
        assert "API_KEYS" in line


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
class TestCompose:
    def test_predictions_are_logged_in_postgres(self, stack: Stack) -> None:
        assert stack.predict("wrong").status_code == 401
        before = int(stack.sql("select count(*) from predictions"))
        answer = stack.predict()
        assert answer.status_code == 200, answer.text
        name = answer.json()["predictions"][0]["id"]
        assert stack.sql(f"select model_version from predictions where id = '{name}'") == "1"
        assert int(stack.sql("select count(*) from predictions")) == before + 1

    def test_what_is_answered_while_the_log_is_away_comes_into_it(self, stack: Stack) -> None:
        stack.compose("stop", "postgres")
        answer = stack.predict()
        assert answer.status_code == 200
        (name,) = (line["id"] for line in answer.json()["predictions"])
        stack.compose("up", "--no-build", "--detach", "--wait", "postgres")
        for _ in range(60):
            if found := stack.sql(f"select id from predictions where id = '{name}'"):
                break
            time.sleep(1)
        assert found == name

    def test_mlflow_keeps_versions_and_refuses_foreign_hosts(
        self, stack: Stack, tmp_path: Path
    ) -> None:
        bundle = tmp_path / "champion"
        # An audit log of its own too: other tests read the project's.
        env = {"MLFLOW_TRACKING_URI": stack.mlflow, "BUNDLE": str(bundle)}
        env["PREDICTION_LOG_URL"] = f"sqlite:///{tmp_path}/audit.db"
        stack.project.uv(stack.project.slug, "promote", env=env)
        assert (bundle / "promotion.json").is_file()
        url = f"{stack.mlflow}/api/2.0/mlflow/registered-models/alias"
        query = {"name": stack.project.slug, "alias": "champion"}
        assert httpx.get(url, params=query).json()["model_version"]["version"] == "1"
        assert httpx.get(url, params=query, headers={"Host": "mlflow:5000"}).status_code == 200
        assert httpx.get(url, params=query, headers={"Host": "evil.example"}).status_code == 403

    def test_a_bad_release_goes_back_to_the_image_before(
        self, stack: Stack, image: str, tmp_path: Path
    ) -> None:
        bad, release = "template-test:bad", str(stack.project.path / "deploy/release.sh")
        (tmp_path / "Dockerfile").write_text(
            f"FROM {image}\nUSER 0\nRUN rm /app/bundle/model.onnx\nUSER 10001\n"
        )
        docker("build", "--tag", bad, tmp_path)
        try:
            done = stack.project.run(
                "sh", release, "roll-out", bad, "staging", check=False, env=stack.env
            )
            assert done.returncode == 1
            assert f"{bad} does not become healthy" in done.stderr
            assert f"{image} runs, as before" in done.stderr
            assert "model.onnx is missing" in done.stderr  # the reason, from the container's log
        finally:
            docker("image", "rm", "--force", bad)
        assert stack.predict().status_code == 200
        done = stack.project.run("sh", release, "roll-out", image, "staging", env=stack.env)
        assert "probabilities" in done.stdout


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_a_release_and_what_may_go_wrong(rendered: Project, tmp_path: Path) -> None:
    """With an API that only says whether it is ready: what release.sh does is the real thing."""
    need_engine()
    compose = yaml.safe_load((rendered.path / "deploy/compose.yaml").read_text("utf-8"))
    need_image(compose["services"]["postgres"]["image"])
    need_image("python:3.12-slim")
    images = {name: f"release-test:{name}" for name in ("a", "b", "bad")}
    for name, image in images.items():
        code = 500 if name == "bad" else 200
        options = ("--build-arg", f"NAME={name}", "--build-arg", f"CODE={code}")
        docker("build", *options, "--tag", image, STANDINS / "api")
    env = SECRETS | {"COMPOSE_PROJECT_NAME": "release-test", "API_PORT": free_port()}
    env |= {"RELEASE_TIMEOUT": "60"}

    def release(*arguments: str, **more: str) -> tuple[int, str, str]:
        command = ("sh", "deploy/release.sh", *arguments)
        done = rendered.run(*command, "staging", check=False, env=env | more)
        return done.returncode, done.stdout.strip(), (done.stderr.splitlines() or [""])[-1]

    def says(text: str, *arguments: str, **more: str) -> None:
        code, _, line = release(*arguments, **more)
        assert code == 1
        assert text in line

    try:
        says("nothing runs: roll an image out first", "smoke")
        says("there is nothing to go back to; nothing runs", "roll-back")
        assert release("roll-out", images["a"])[:2] == (0, "a")
        says("there is nothing to go back to; release-test:a runs", "roll-back")
        assert release("roll-out", images["b"])[:2] == (0, "b")
        says("release-test:bad does not become healthy", "roll-out", images["bad"])
        assert release("smoke")[:2] == (0, "b")  # what ran before still runs
        says("cannot be pulled", "roll-out", "localhost:1/none:1")
        docker("create", "--name", "release-test-release", images["a"])
        says("another release is under way", "roll-out", images["a"])
        docker("rm", "--volumes", "release-test-release")
        says("API_KEYS is not set", "smoke", API_KEYS="")
        says("no engine answers at tcp://127.0.0.1:1", "smoke", DOCKER_HOST="tcp://127.0.0.1:1")
        assert release("roll-back")[:2] == (0, "a")
        says("there is nothing to go back to; release-test:a runs", "roll-back")
        assert release("smoke")[:2] == (0, "a")
    finally:
        file = rendered.path / "deploy/compose.yaml"
        down = ("compose", "--file", file, "down", "--volumes", "--timeout", "1")
        docker(*down, check=False, **env)
        docker("image", "rm", "--force", *images.values(), check=False)
