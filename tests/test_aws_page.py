"""The commands of docs/aws-codepipeline.md, with AWS's own client against moto.

moto has no CodeBuild and no connections: there the client checks the command alone. Of a stack it
makes the change set, in which it resolves the template; what it then cannot make is not asked for.
"""

import json
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import clusters
import pytest
from conftest import Project, execute
from test_aws import buildspec, ecs, eks, load, moto, project  # noqa: F401 (fixtures)
from tools import need_program

pytestmark = pytest.mark.slow
AWS = """#!/bin/sh
echo "$@" >>{record}
case "$1 $2" in
  "cloudformation deploy") set -- "$@" --no-execute-changeset ;;
  codeconnections* | codebuild*) set -- "$@" --generate-cli-skeleton output ;;
esac
exec {aws} "$@"
"""
ARN = "arn:aws:{}:eu-west-1:123456789012:{}"
ROLE = "arn:aws:iam::123456789012:role/one"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return AWS's command-line client, in an environment of its own: it pins its libraries."""
    folder = tmp_path_factory.mktemp("awscli")
    for command in (("venv", "."), ("pip", "install", "--python", "bin/python", "awscli>=1.40")):
        done = execute("uv", *command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder / "bin/aws"


def blocks(rendered: Project) -> list[str]:
    page = (rendered.path / "docs/aws-codepipeline.md").read_text("utf-8")
    return [textwrap.dedent(block) for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]


def parameters(deploy: str) -> dict[str, str]:
    """Return what a `cloudformation deploy` sets."""
    words = deploy.partition("--parameter-overrides ")[2].split()
    return dict(word.split("=", 1) for word in words)


def test_its_commands(project: Project, aws: Path, tmp_path: Path) -> None:  # noqa: F811
    for program in ("cosign", "jq", "openssl", "shred"):
        need_program(program)
    (tmp_path / "bin").mkdir()
    record = tmp_path / "record"
    wrapper = tmp_path / "bin/aws"
    wrapper.write_text(AWS.format(record=record, aws=aws), "utf-8")
    wrapper.chmod(0o755)
    # The last line of those is below.
    script = re.sub(r"^kubectl .*\n", "", "".join(blocks(project)), flags=re.MULTILINE)
    with moto() as url:
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        keys |= {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "eu-west-1"}

        def client(name: str) -> Any:
            names = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
            return boto3.client(name, endpoint_url=url, region_name="eu-west-1", **names)

        subnets = [one["SubnetId"] for one in client("ec2").describe_subnets()["Subnets"]][:2]
        network = {"subnetIds": subnets}
        client("eks").create_cluster(
            name=project.slug, roleArn=ROLE, resourcesVpcConfig=network
        )  # as the stack would
        given = {
            "VPC": client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"],
            "SUBNETS": ",".join(subnets),
            "CLIENTS": client("ec2").describe_security_groups()["SecurityGroups"][0]["GroupId"],
            "ROLE": ROLE,
            "ADMINISTRATOR": ROLE,
            "CERTIFICATE": ARN.format("acm", "certificate/1"),
            "CONNECTION": ARN.format("codeconnections", "connection/1-2"),
            "COSIGN_PASSWORD": "password",
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        }
        project.run("sh", "-euc", script, env=keys | given)
        manager = client("secretsmanager")
        made = {
            secret["Name"]: json.loads(
                manager.get_secret_value(SecretId=secret["Name"])["SecretString"]
            )
            for secret in manager.list_secrets()["SecretList"]
        }
        stacks = {one["StackName"] for one in client("cloudformation").describe_stacks()["Stacks"]}
        stored = client("ssm").describe_parameters()["Parameters"]
    assert (project.path / "deploy/cosign.pub").is_file()
    assert not (project.path / "cosign.key").exists()
    # What the builds read is what was created; the stack of the database makes its password.
    for name in ("build", "monitor", "retrain"):
        for secret in buildspec(project, name)["env"]["secrets-manager"].values():
            of, _, key = secret.partition(":")
            assert of.endswith("/database") or key in made[of], secret
    assert f"/{project.slug}/mlflow-tracking-uri" in {one["Name"] for one in stored}
    deployed = [line for line in record.read_text("utf-8").splitlines() if " deploy " in line]
    for line in deployed:
        (path,) = re.findall(r"--template-file (\S+)", line)
        known = load(project.path / path)["Parameters"]
        needed = {name for name, one in known.items() if "Default" not in one}
        assert needed <= parameters(line).keys() <= known.keys(), line
    assert {f"{project.slug}-{name}" for name in ("production-database", "delivery")} <= stacks


def test_what_the_roles_may_do_in_the_cluster(
    eks: Project,  # noqa: F811
    tmp_path: Path,
) -> None:
    (command,) = re.findall(r"^kubectl .*$", "".join(blocks(eks)), re.MULTILINE)
    with clusters.running(tmp_path / "cluster") as cluster:
        said = eks.run("sh", "-c", command, env=cluster.env).stdout
    assert "created" in said
