"""``cluster/aws.yaml`` as ``ray up`` and Ray's autoscaler take it, against a mock of AWS in this process.

What it does not reach: the image (the mock has not Amazon's), ssh, and with it what is set up on a node.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import cfnlint
import pytest
import yaml
from moto import mock_aws
from moto.server import ThreadedMotoServer
from ray.autoscaler._private.autoscaler import StandardAutoscaler
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.load_metrics import LoadMetrics
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from rayconvai.train.autoscaler import of_config

CLUSTER = Path(__file__).parents[2] / "cluster"
IDENTITY = (CLUSTER / "aws-identity.yaml").read_text()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The config that ``ray up`` would leave on the head."""
    monkeypatch.setenv("HOME", str(tmp_path))  # for the key pair that Ray makes
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    written = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    region = written["provider"]["region"]
    with mock_aws():
        boto3.client("cloudformation", region).create_stack(
            StackName="rayconvai",
            TemplateBody=IDENTITY,
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "speech"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        some_image = boto3.client("ec2", region).describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        for kind in written["available_node_types"].values():
            assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/")
            kind["node_config"]["ImageId"] = some_image
        yield _bootstrap_config(written, no_config_cache=True)


def test_the_autoscaler_adds_spot_workers_to_a_head_on_demand(tmp_path: Path, config: dict[str, Any]) -> None:
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    kind = config["available_node_types"]["head"]
    tags = {
        TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
        TAG_RAY_NODE_NAME: "ray-rayconvai-head",
        TAG_RAY_NODE_STATUS: "up-to-date",
        TAG_RAY_USER_NODE_TYPE: "head",
        TAG_RAY_LAUNCH_CONFIG: "",
    }
    provider.create_node(kind["node_config"] | config["head_node"], tags, 1)

    assert of_config(config).types["gpu_spot"].items() >= {"CPU": 8, "GPU": 1, "accelerator_type:L4": 1}.items()
    config["provider"] |= {"disable_node_updaters": True, "foreground_node_launch": True}  # there is no node to enter
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
    demand = LoadMetrics()
    waiting = [{"CPU": 2, "GPU": 0.5}] * 3  # trials, two of which share a GPU
    (head,) = provider.non_terminated_nodes({})
    demand.update(provider.internal_ip(head), b"0" * 28, {"CPU": 0}, {"CPU": 0}, 0, waiting_bundles=waiting)
    reader = str(tmp_path / "ray_bootstrap_config.yaml")
    autoscaler = StandardAutoscaler(reader, demand, None, max_failures=0, update_interval_s=0)
    for _ in range(3):  # the mock gives one node, however many are asked for at once
        autoscaler.update()

    reservations = boto3.client("ec2", "us-east-1").describe_instances()["Reservations"]
    found = [instance for reservation in reservations for instance in reservation["Instances"]]
    worker = ("gpu_spot", "g6.2xlarge", "spot", "rayconvai-worker")
    assert sorted(map(facts, found)) == [worker, worker, ("head", "m7i.xlarge", "on demand", "rayconvai-head")]
    groups = {group["GroupId"] for instance in found for group in instance["SecurityGroups"]}
    (group,) = boto3.client("ec2", "us-east-1").describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)]


def facts(instance: dict[str, Any]) -> tuple[str, ...]:
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags["ray-cluster-name"] == "rayconvai"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    return (
        tags["ray-user-node-type"],
        instance["InstanceType"],
        instance.get("InstanceLifecycle", "on demand"),
        instance["IamInstanceProfile"]["Arn"].rpartition("/")[2],
    )


def test_the_template_of_the_identities_is_sound() -> None:
    found = cfnlint.lint(IDENTITY, regions=["us-east-1"])
    assert [str(match) for match in found] == []


def test_a_node_takes_the_secret_by_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: ThreadedMotoServer
) -> None:
    secrets = boto3.client("secretsmanager", "us-east-1")
    secrets.create_secret(Name="rayconvai", SecretString="RAY_AUTH_TOKEN=0123\nWANDB_API_KEY=4567\n")
    (fetch,) = [
        line for line in yaml.safe_load((CLUSTER / "aws.yaml").read_text())["setup_commands"] if "umask" in line
    ]
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    subprocess.run(["bash", "-c", fetch], env=os.environ | {"HOME": str(tmp_path)}, check=True)
    written = tmp_path / ".rayconvai.env"
    assert written.read_text().split() == ["RAY_AUTH_TOKEN=0123", "WANDB_API_KEY=4567"]
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
