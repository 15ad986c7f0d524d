"""The launcher files by the schema and the preparation of ``ray up``, and what they do on a node but installing.

Of GCP and Azure this is all that goes without their clouds; see test_aws.py for AWS.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import googleapiclient
import jsonschema
import pytest
import yaml
from googleapiclient.discovery import build_from_document
from googleapiclient.http import HttpMockSequence
from packaging.requirements import Requirement
from ray.autoscaler._private.gcp.node import GCPCompute
from ray.autoscaler._private.providers import _get_default_config
from ray.autoscaler._private.util import prepare_config, validate_config

from rayconvai.train.autoscaler import of_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CLOUDS = ["aws", "gcp", "azure"]
LAUNCHERS = [*CLOUDS, "local"]
PINNED = "ray[default]==2.60.0"
ENVIRONMENT = "RAY_AUTH_TOKEN=0123\nWANDB_API_KEY=4567"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    return found


def prepared(name: str) -> dict[str, Any]:
    found: dict[str, Any] = prepare_config(read(name))
    return found


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_takes_it(name: str) -> None:
    config = prepared(name)
    validate_config(config)
    assert config["max_workers"] == of_config(config).total == (2 if name == "local" else 8)
    assert set(config["file_mounts"]) >= {"/home/ubuntu/rayconvai"}
    assert Path(ROOT, config["file_mounts"]["/home/ubuntu/rayconvai"], "pyproject.toml").is_file()
    commands = " ".join(config["head_setup_commands"] + config["worker_setup_commands"])
    assert commands.count(PINNED) == 2, "head and workers have one Ray"


@pytest.mark.parametrize(
    ("name", "spot"),
    [
        pytest.param("aws", {"InstanceMarketOptions": {"MarketType": "spot"}}, id="aws"),
        pytest.param("gcp", {"provisioningModel": "SPOT"}, id="gcp"),
        pytest.param("azure", {"priority": "Spot"}, id="azure"),
    ],
)
def test_workers_are_spot_and_the_head_is_not(name: str, spot: dict[str, Any]) -> None:
    types = prepared(name)["available_node_types"]
    assert set(types) == {"head", "gpu_spot"}
    (key, value), *_ = spot.items()
    assert f"'{key}': {value!r}" in str(types["gpu_spot"]["node_config"])
    assert key not in str(types["head"]["node_config"])
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == types["gpu_spot"]["min_workers"] == 0


def test_what_ray_asks_gcp_for_is_in_the_description_of_its_api(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path(googleapiclient.__path__[0], "discovery_cache", "documents")
    description = json.loads((cache / "compute.v1.json").read_text())
    http = HttpMockSequence([({"status": "200"}, "{}")] * 2)
    monkeypatch.setattr(GCPCompute, "get_new_authorized_http", lambda self, http: http)
    compute = GCPCompute(build_from_document(description, http=http), "speech-1234", "us-central1-a", "rayconvai")
    schema = {"$defs": strict(description["schemas"]), "$ref": "#/$defs/Instance"}
    instance = jsonschema.Draft202012Validator(schema)
    for kind in prepared("gcp")["available_node_types"].values():
        compute.create_instance(kind["node_config"], {"ray-node-name": "ray-rayconvai-node"}, False)
        address, method, body, _ = http.request_sequence[-1]
        assert (method, "/zones/us-central1-a/instances" in address) == ("POST", True)
        instance.validate(json.loads(body))


def strict(schemas: Any) -> Any:
    """Google's words for JSON's schema in those of the standard, and no field but those that are described."""
    if isinstance(schemas, list):
        return [strict(part) for part in schemas]
    if not isinstance(schemas, dict):
        return schemas
    found = {key: strict(part) for key, part in schemas.items() if key not in ("id", "minimum", "maximum")}
    if isinstance(found.get("$ref"), str):
        return {"$ref": f"#/$defs/{found['$ref']}"}
    if found.get("type") == "any":
        return {}
    if found.get("format") in ("int64", "uint64"):  # texts, to JavaScript's credit; numbers are taken too
        found["type"] = ["string", "integer"]
    return found | ({"additionalProperties": False} if "properties" in found else {})


def test_what_is_azures_own() -> None:
    template = Path(os.fspath(sys.modules["ray"].__path__[0]), "autoscaler/_private/_azure/azure-vm-template.json")
    known = set(yaml.safe_load(template.read_text().replace("\t", " "))["parameters"])
    for kind in read("azure")["available_node_types"].values():
        assert set(kind["node_config"]["azure_arm_parameters"]) <= known
    rays = " ".join(_get_default_config({"type": "azure"})["head_setup_commands"])
    ours = " ".join(read("azure")["setup_commands"])
    assert set(re.findall(r"\S+==[\d.a-z]+", rays)) <= set(ours.split()), "Ray's provider needs these versions"


def test_one_ray_everywhere_and_the_one_that_the_project_asks_for() -> None:
    texts = {path.name: path.read_text() for path in CLUSTER.iterdir()}
    pins = {
        name: set(re.findall(r"ray\[default\]==([\d.]+)|rayVersion: ([\d.]+)", text)) for name, text in texts.items()
    }
    versions = {version for found in pins.values() for pair in found for version in pair if version}
    assert len(versions) == 1, pins
    required = [Requirement(line) for line in metadata("rayconvai").get_all("Requires-Dist") or []]
    (ray,) = [need for need in required if need.name == "ray" and not need.marker]
    assert versions.pop() in ray.specifier
    pythons = {version for name, text in texts.items() for version in re.findall(r"python(3\.\d+) -m venv", text)}
    assert pythons == {"3.12"}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_authentication_is_on_and_the_dashboard_stays_on_the_head(name: str) -> None:
    config = prepared(name)
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in shlex.split(start)
    text = (CLUSTER / f"{name}.yaml").read_text()
    assert not re.search(r"(RAY_AUTH_TOKEN|WANDB_API_KEY)\s*[=:]\s*\S", text)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_secret_comes_to_a_file_that_others_cannot_read(tmp_path: Path, name: str) -> None:
    """Python of the node is played by a script that knows the secret; what it is asked must at least be Python."""
    (fetch,) = [command for command in read(name)["setup_commands"] if "umask" in command]
    (python, dash_c, code), _ = shlex.split(fetch.strip("()").partition("; ")[2])[:3], None
    assert (python, dash_c) == ("~/venv/bin/python", "-c")
    ast.parse(code)
    played = tmp_path / "venv" / "bin" / "python"
    played.parent.mkdir(parents=True)
    played.write_text(f"#!/bin/sh\ncat <<'END'\n{ENVIRONMENT}\nEND\n")
    played.chmod(0o755)
    assert on_node(tmp_path, fetch).returncode == 0
    written = tmp_path / ".rayconvai.env"
    assert written.read_text() == ENVIRONMENT + "\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    played.write_text("#!/bin/sh\nexit 1\n")
    assert on_node(tmp_path, fetch).returncode != 0, "without the secret no Ray starts"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_shell_of_the_node_has_token_and_key(tmp_path: Path, name: str) -> None:
    (remember,) = [command for command in read(name)["setup_commands"] if ".bashrc" in command]
    (tmp_path / ".rayconvai.env").write_text(ENVIRONMENT)
    for _ in range(2):  # ray up again
        assert on_node(tmp_path, remember).returncode == 0
    shown = on_node(tmp_path, ". ~/.bashrc; sh -c 'echo $RAY_AUTH_MODE $RAY_AUTH_TOKEN $WANDB_API_KEY; echo $PATH'")
    mode, path = shown.stdout.splitlines()
    assert mode == "token 0123 4567"
    assert path.startswith(f"{tmp_path}/venv/bin:")
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1


def on_node(home: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run(["bash", "-c", command], env=environment, cwd=home, capture_output=True, text=True)
