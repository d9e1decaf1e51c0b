"""Kustomizations of ``docker/k8s`` put together: as much of kustomize as they use, and an error at anything else."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import ROOT

__all__ = ["K8S", "build", "named"]

K8S = ROOT / "docker" / "k8s"
_KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "secretGenerator", "images",
    "patches",
}  # fmt: skip
_KEYED = ("containers", "env", "volumeMounts", "volumes", "tolerations")

Manifest = dict[str, Any]


def build(folder: Path) -> list[Manifest]:
    """All manifests of a kustomization; generated names stay without the hash that kustomize appends."""
    found = _build(folder, [])
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(names) == len(set(names)), names
    return found


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of this kind and name."""
    (found,) = (one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def _build(folder: Path, below: list[Manifest]) -> list[Manifest]:
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert plan.keys() <= _KNOWN, f"{folder}: {plan.keys() - _KNOWN}"
    found = below
    for name in plan.get("resources", []):
        path = (folder / name).resolve()
        found = (
            [*found, *_build(path, [])] if path.is_dir() else [*found, *yaml.safe_load_all(path.read_text())]
        )
    for one in plan.get("configMapGenerator", []):
        found = _config_map(found, folder, one)
    found = [*found, *(_secret(one) for one in plan.get("secretGenerator", []))]
    for name in plan.get("components", []):
        found = _build((folder / name).resolve(), found)
    for one in plan.get("patches", []):
        _patch(found, folder, one)
    for one in found:
        _finish(one, plan)
    return found


def _config_map(found: list[Manifest], folder: Path, one: dict[str, Any]) -> list[Manifest]:
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": one["name"]},
        "data": {name: (folder / name).read_text() for name in one["files"]},
    }
    if one.get("behavior") == "replace":
        named(found, "ConfigMap", one["name"]).update(made)
        return found
    return [*found, made]


def _secret(one: dict[str, Any]) -> Manifest:
    values = dict(literal.split("=", 1) for literal in one["literals"])
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": one["name"]}, "stringData": values}


def _patch(found: list[Manifest], folder: Path, one: dict[str, Any]) -> None:
    if "path" in one:
        patch = yaml.safe_load((folder / one["path"]).read_text())
        target = named(found, patch["kind"], patch["metadata"]["name"])
        merged = _merged(target, patch)
        target.clear()
        target.update(merged)
        return
    kind, name = one["target"]["kind"], re.compile(one["target"]["name"])
    targets = [each for each in found if each["kind"] == kind and name.fullmatch(each["metadata"]["name"])]
    assert targets, one
    for target in targets:
        for step in yaml.safe_load(one["patch"]):
            _add(target, **step)


def _add(target: Any, *, op: str, path: str, value: Any) -> None:
    assert op == "add", op
    *way, last = path.strip("/").split("/")
    for key in way:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if isinstance(target, list):
        assert last == "-", path
        target.append(copy.deepcopy(value))
    else:
        target[last] = copy.deepcopy(value)


def _merged(old: Any, new: Any, key: str = "") -> Any:
    """A strategic merge: lists of named things by name, other lists as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: _merged(old.get(name), value, name) for name, value in new.items()}}
    if isinstance(old, list) and key in _KEYED:
        by = "mountPath" if key == "volumeMounts" else "key" if key == "tolerations" else "name"
        both = {one[by]: one for one in old}
        for one in new:
            both[one[by]] = _merged(both.get(one[by]), one)
        return list(both.values())
    return copy.deepcopy(new)


def _finish(one: Manifest, plan: dict[str, Any]) -> None:
    if "namespace" in plan:
        one["metadata"]["namespace"] = plan["namespace"]
    for image in plan.get("images", []):
        for container in _containers(one):
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def _containers(one: Manifest) -> list[dict[str, Any]]:
    return one["spec"]["template"]["spec"]["containers"] if one["kind"] == "Deployment" else []
