"""Misspelt, missing and wrongly typed fields are found at any level."""

from __future__ import annotations

import copy
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.checks.schema import check, defaulted, strict
from k8s.crds import KINDS, KUBERAY, extracted, packed, schemas
from k8s.manifests import Resource, title

Path_ = tuple[str | int, ...]
FREE = {"labels", "annotations", "matchLabels", "limits", "requests", "data", "rayStartParams"}
"""Mappings with arbitrary keys."""


def keys(node: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Paths of all keys that the schema has to know."""
    if isinstance(node, dict):
        for key, below in node.items():
            if not (path and path[-1] in FREE) and path != ("metadata",) and "/" not in key:
                yield (*path, key)
            yield from keys(below, (*path, key))
    if isinstance(node, list):
        for index, below in enumerate(node):
            yield from keys(below, (*path, index))


def misspelt(resource: Resource, path: Path_) -> Resource:
    changed = copy.deepcopy(resource)
    node: Any = changed
    for part in path[:-1]:
        node = node[part]
    node[f"{path[-1]}x"] = node.pop(path[-1])
    return changed


def one_of_each_kind(overlays: dict[str, list[Resource]]) -> dict[str, Resource]:
    return {resource["kind"]: resource for resource in overlays["gpu"]}


def test_every_misspelt_key_is_found(overlays: dict[str, list[Resource]]) -> None:
    """Misspells each key of one object of each kind."""
    for kind, resource in one_of_each_kind(overlays).items():
        paths = [path for path in keys(resource) if path[0] not in ("kind", "apiVersion")]
        missed = [path for path in paths if not any(check(misspelt(resource, path)))]
        assert not missed, (kind, missed)


def test_an_unknown_kind_is_an_error() -> None:
    [line] = check({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}})
    assert line == "Thing a: unknown API version example.com/v1; add its schema to k8s/crds"


def test_wrong_types_are_found(service: Resource, job: Resource) -> None:
    service, job = copy.deepcopy(service), copy.deepcopy(job)
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] = "4"
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"
    assert any("maxReplicas: '4' is not of type 'integer'" in line for line in check(service))
    assert any("authOptions.mode: 'tokens' is not one of" in line for line in check(job))


def test_pods_inside_custom_resources_are_checked_as_pods(service: Resource) -> None:
    service = copy.deepcopy(service)
    pod = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["resources"]["limits"]["memory"] = {"of": "much"}
    assert any("headGroupSpec.template" in line for line in check(service))


def test_defaults_are_filled_in_and_nulls_dropped() -> None:
    schema = {"properties": {"a": {"default": 3}, "b": {"items": {"properties": {"c": {"default": []}}}}}}
    assert defaulted(schema, {"b": [{}], "d": None}) == {"a": 3, "b": [{"c": []}]}


def test_objects_that_list_their_properties_are_closed() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "string", "nullable": True}}}
    assert strict(closed)["additionalProperties"] is False
    assert strict(closed)["properties"]["a"]["type"] == ["string", "null"]
    assert "additionalProperties" not in strict({**closed, "x-kubernetes-preserve-unknown-fields": True})
    assert strict({"x-kubernetes-int-or-string": True}) == {"type": ["integer", "string"]}


def test_the_schemas_are_those_of_kuberays_release(root: Path) -> None:
    folder = root.parent / "shared" / "kuberay-crds"
    if not folder.is_dir():
        pytest.skip("KubeRay's CRDs are not next to the project")
    for name, schema in extracted(folder).items():
        version, kind = name.split(" ")
        assert schemas()[version, kind] == schema


def test_the_command_reproduces_the_stored_file(tmp_path: Path) -> None:
    """From CRDs as in the release, which also has a kind that we do not use."""
    for (version, kind), schema in {**schemas(), ("ray.io/v1", "RayCronJob"): {}}.items():
        group, versions = version.split("/")[0], [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]
        crd = {"spec": {"group": group, "names": {"kind": kind}, "versions": versions}}
        (tmp_path / f"{kind}.yaml").write_text(json.dumps(crd), encoding="utf-8")
    assert {name.split(" ")[1] for name in extracted(tmp_path)} == set(KINDS)
    assert lzma.decompress(packed(tmp_path)) == lzma.decompress(KUBERAY.read_bytes())


def test_titles_name_kind_and_object(job: Resource) -> None:
    assert title(job) == "RayJob lladav-si"
