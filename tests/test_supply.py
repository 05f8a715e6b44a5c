"""The supply chain: what deploy/deliver.sh scans, signs and verifies, with the real tools."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Project, copy, execute
from containers import docker, key_pair, need_engine, need_image, serve_registry
from tools import need_program

DOCKERFILE = """
FROM python:3.12-slim AS api
ARG BUNDLE
ARG SERVE_GROUP
COPY ${BUNDLE} /app/bundle
"""


@dataclass(frozen=True)
class Chain:
    """A project with a bundle, a signing key and a registry."""

    project: Project
    env: dict[str, str]

    def step(self, *step: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.project.run(
            *("bash", "deploy/deliver.sh", *step), check=False, env=self.env | env
        )

    def done(self, *steps: str) -> None:
        for step in steps:
            result = self.step(step)
            assert result.returncode == 0, f"{step}: {result.stdout}\n{result.stderr}"

    def deploy(self, **env: str) -> subprocess.CompletedProcess[str]:
        return self.step("deploy", "staging", **env)

    @property
    def image(self) -> Path:
        return self.project.path / "build/delivery/image"


def said(result: subprocess.CompletedProcess[str], code: int, text: str) -> None:
    """The last line says why."""
    assert result.returncode == code, result.stderr
    assert text in result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def chain(rendered: Project, registry: str, tmp_path: Path) -> Iterator[Chain]:
    """Give a project whose image is small, and whose release script says that it was called."""
    need_program("cosign", "cosign")
    need_program("jq", "jq")
    need_engine()
    need_image("python:3.12-slim")
    project = copy(rendered, tmp_path)
    champion = project.path / "build/champion"
    champion.mkdir(parents=True)
    (champion / "bundle.json").write_text("{}", "utf-8")
    (champion / "model.onnx").write_bytes(b"model")
    (project.path / "deploy/Dockerfile").write_text(DOCKERFILE, "utf-8")
    (project.path / "deploy/release.sh").write_text('echo "released $2"\n', "utf-8")
    (project.path / ".dockerignore").unlink()
    key = key_pair(tmp_path / "key")
    shutil.copy(tmp_path / "key/cosign.pub", project.path / "deploy/cosign.pub")
    name = f"{registry}/supply/{tmp_path.name}".lower()
    yield Chain(project, key | {"IMAGE_NAME": name})
    images = docker("image", "ls", "--quiet", name).split()
    if images:
        docker("rmi", "--force", *images, check=False)


def listed(chain: Chain) -> None:
    """Stand in for `sbom`, which needs a locked project: test_bills_of_materials runs it."""
    for name in ("lock", "image"):
        path = chain.project.path / f"build/delivery/{name}.cdx.json"
        path.write_text('{"bomFormat": "CycloneDX", "specVersion": "1.5"}', "utf-8")


docker_test = [pytest.mark.slow, pytest.mark.docker, pytest.mark.xdist_group("docker")]


class TestSignatures:
    pytestmark = docker_test

    def test_what_is_signed_is_released_and_nothing_else(
        self, chain: Chain, tmp_path: Path
    ) -> None:
        chain.done("build", "sign")
        listed(chain)
        chain.done("push")
        released = chain.deploy()
        assert released.returncode == 0, released.stderr
        assert released.stdout.startswith("released 127.0.0.1:")
        image = chain.image.read_text("utf-8").strip()

        predicates = ("cyclonedx", "slsaprovenance1", "https://mlops-loop/bundle")
        for predicate in predicates:
            shown = execute(
                *("cosign", "verify-attestation", "--insecure-ignore-tlog", "--type", predicate),
                *("--key", "deploy/cosign.pub", image),
                cwd=chain.project.path,
            )
            assert shown.returncode == 0, shown.stderr

        key_pair(tmp_path / "other")
        other = (tmp_path / "other/cosign.pub").read_text("utf-8")
        said(chain.deploy(COSIGN_PUBLIC_KEY=other), 3, "no signature that this key verifies")

        (chain.project.path / "deploy/cosign.pub").unlink()
        said(chain.deploy(), 1, "no public key: commit")

    def test_an_unsigned_image_is_refused(self, chain: Chain) -> None:
        chain.done("build", "sign")
        tag = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", chain.env["IMAGE_NAME"])
        docker("push", "--quiet", tag)
        digest = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", tag)
        chain.image.write_text(digest, "utf-8")
        said(chain.deploy(), 3, "no signature that this key verifies")
        away = "127.0.0.1:1/away"  # where no registry listens
        docker("tag", tag, f"{away}:{tag.rpartition(':')[2]}")
        said(chain.step("push", IMAGE_NAME=away), 1, "cannot be pushed: is the registry there")
        docker("rmi", f"{away}:{tag.rpartition(':')[2]}")

    def test_a_tampered_bundle_is_refused(self, chain: Chain) -> None:
        """On the builder, after it was signed; and in an image that the key signed."""
        chain.done("build", "sign")
        listed(chain)
        model = chain.project.path / "build/champion/model.onnx"
        model.write_bytes(b"another")
        refused = chain.step("push")
        said(refused, 3, "is not what was signed")
        assert "model.onnx" in refused.stderr
        chain.done("build")
        model.write_bytes(b"model")
        said(chain.step("push"), 3, "holds another bundle than was signed")

        script = chain.project.path / "deploy/deliver.sh"
        text = script.read_text("utf-8")  # someone who has the key takes the checks out
        check = 'same_bundle "$(tag)"'
        assert text.count(check) == 1
        script.write_text(text.replace(check, "true"), "utf-8")
        chain.done("push")
        script.write_text(text, "utf-8")
        refused = chain.deploy()
        said(refused, 3, "is not the one that was signed")
        assert "model.onnx" in refused.stderr

    def test_an_image_that_cannot_be_built_is_not_signed(self, chain: Chain) -> None:
        dockerfile = chain.project.path / "deploy/Dockerfile"
        dockerfile.write_text(f"{DOCKERFILE}RUN false\n", "utf-8")
        said(chain.step("build"), 1, "the image cannot be built")
        said(chain.step("sbom"), 1, "uv cannot export uv.lock")
        said(chain.step("push"), 1, "the bundle is not signed")

    def test_without_a_key_nothing_is_signed(self, chain: Chain) -> None:
        chain.done("build")
        said(chain.step("sign", COSIGN_PRIVATE_KEY=""), 1, "COSIGN_PRIVATE_KEY is not set")
        said(chain.step("push"), 1, "the bundle is not signed")
        said(chain.step("sign", COSIGN_PASSWORD="wrong"), 1, "the bundle cannot be signed")


@pytest.mark.slow
class TestScan:
    @pytest.fixture
    def project(self, installed: Project, tmp_path: Path) -> Project:
        need_program("jq", "jq")
        return copy(installed, tmp_path)

    def scan(self, project: Project, **env: str) -> subprocess.CompletedProcess[str]:
        command = ("bash", "deploy/deliver.sh", "scan")
        return project.run(*command, check=False, env={"SKIP_AUDIT": "true"} | env)

    def test_a_fresh_project_passes_and_a_secret_or_a_licence_does_not(
        self, project: Project
    ) -> None:
        fresh = self.scan(project)
        assert fresh.returncode == 0, fresh.stderr
        assert "warning: scan: SKIP_AUDIT is set" in fresh.stderr
        licences = json.loads((project.path / "build/delivery/licences.json").read_text("utf-8"))
        assert {"onnxruntime", "fastapi"} <= {package["Name"] for package in licences}

        script = project.path / "deploy/deliver.sh"
        text = script.read_text("utf-8")
        script.write_text(text.replace("denied='", "denied='ISC|"), "utf-8")
        refused = self.scan(project)
        said(refused, 3, "a licence above is denied")
        assert "shellingham" in refused.stderr
        script.write_text(text, "utf-8")

        leaked = project.path / "src" / project.package / "ingest.py"
        secret = "AKIA" + "IOSFODNN7EXAMPLE"[::-1]
        leaked.write_text(f'{leaked.read_text("utf-8")}\nKEY = "{secret}"\n', "utf-8")
        refused = self.scan(project)
        said(refused, 3, "a secret lies there")
        assert "ingest.py" in refused.stderr
        assert secret not in refused.stderr

    def test_a_known_vulnerability(self, project: Project) -> None:
        """Or it says that it could not ask: it never passes in silence."""
        text = (project.path / "deploy/deliver.sh").read_text("utf-8")
        old = '--output-file "$made/shipped.txt" >/dev/null\n'
        assert old in text
        vulnerable = (
            f'{old}    echo "jinja2==2.4.1 --hash=sha256:{"0" * 64}" >"$made/shipped.txt"\n'
        )
        script = project.path / "deploy/deliver.sh"
        script.write_text(text.replace(old, vulnerable), "utf-8")
        refused = self.scan(project, SKIP_AUDIT="")
        if refused.returncode == 1:
            said(refused, 1, "known vulnerabilities could not be looked up")
            pytest.skip("the vulnerability service cannot be reached")
        said(refused, 3, "known vulnerabilities: uv lock --upgrade-package")
        assert "jinja2 2.4.1" in refused.stderr


def test_denied_licences(rendered: Project) -> None:
    """LGPL may be linked to; GPL and what forbids production may not."""
    text = (rendered.path / "deploy/deliver.sh").read_text("utf-8")
    found = re.search(r"^denied='(.*)'$", text, re.MULTILINE)
    assert found
    pattern = found[1]
    for licence in ("GPL-3.0-only", "MIT AND AGPL-3.0", "GNU General Public License v3 (GPLv3)"):
        assert re.search(pattern, licence), licence
    lesser = "GNU Lesser General Public License v3 (LGPLv3)"
    for licence in ("LGPL-3.0-only", lesser, "MIT License", "Apache-2.0"):
        assert not re.search(pattern, licence), licence


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_bills_of_materials(installed: Project, chain: Chain, tmp_path: Path) -> None:
    for name in ("uv.lock", "pyproject.toml"):
        shutil.copy(installed.path / name, chain.project.path / name)
    chain.done("build", "sbom")
    made = chain.project.path / "build/delivery"
    for name in ("lock", "image"):
        bill = json.loads((made / f"{name}.cdx.json").read_text("utf-8"))
        assert bill["bomFormat"] == "CycloneDX"
        assert bill["components"]


def test_what_is_missing_is_named(rendered: Project, tmp_path: Path) -> None:
    """One line: which program, and where to get it."""
    project = copy(rendered, tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("bash", "dirname", "tr", "git", "mkdir"):
        if where := shutil.which(program):
            (folder / program).symlink_to(where)
    for step, program in (("scan", "jq"), ("sign", "cosign")):
        done = project.run(
            *("bash", "deploy/deliver.sh", step), check=False, env={"PATH": str(folder)}
        )
        said(done, 1, f"{program} is not installed: https://")
