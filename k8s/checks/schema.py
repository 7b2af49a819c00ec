"""Fields and values: Kubernetes' own schemas, those of custom resources, and pods inside custom resources.

As the API server would, but strictly: it drops fields that it does not know; here they are mistakes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator

from k8s.crds import Schema, schemas
from k8s.manifests import Resource, pod_templates, title

VERSIONS = ("1.32", "1.37")
"""Of Kubernetes: the oldest and the newest that manifests are for."""
CORE = {"v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1", "scheduling.k8s.io/v1"}
CORE |= {"rbac.authorization.k8s.io/v1", "autoscaling/v2"}


def check(resource: Resource) -> Iterator[str]:
    """Unknown kinds, unknown fields, wrong types."""
    version, kind = str(resource.get("apiVersion")), str(resource.get("kind"))
    if version in CORE:
        yield from _core(resource, title(resource))
    elif (version, kind) in schemas():
        yield from _custom(resource, version, kind)
        for path, template in pod_templates(resource):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
            yield from _core(pod, f"{title(resource)}: {path}")
    else:
        yield f"{title(resource)}: {version} is not known here; add its schema to k8s/crds"


def _core(resource: Resource, where: str) -> Iterator[str]:
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            path = ".".join(str(part) for part in getattr(error, "path", ()))
            yield f"{where}: {path}: {getattr(error, 'message', error)} (Kubernetes {version})"


def _custom(resource: Resource, version: str, kind: str) -> Iterator[str]:
    filled = defaulted(schemas()[version, kind], resource)
    for error in _validator(version, kind).iter_errors(filled):
        yield f"{title(resource)}: {'.'.join(map(str, error.path))}: {error.message[:200]}"


@cache
def _validator(version: str, kind: str) -> Draft202012Validator:
    return Draft202012Validator(strict(schemas()[version, kind]))


def strict(schema: Any) -> Any:
    """JSON Schema of a Kubernetes schema, in which every object is closed that lists its properties."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items() if key not in ("properties", "default")}
    if "properties" in schema:
        made["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        if not _is_open(schema):
            made.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    return made


def _is_open(schema: Schema) -> bool:
    marks = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")
    return any(schema.get(mark) for mark in marks)


def defaulted(schema: Schema, value: Any) -> Any:
    """The value as the API server keeps it: nulls dropped, the schema's defaults filled in."""
    if isinstance(value, list):
        return [defaulted(schema.get("items") or {}, each) for each in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") or {}
    given = {key: each for key, each in value.items() if each is not None}
    missing = {
        k: copy.deepcopy(p["default"]) for k, p in properties.items() if "default" in p and k not in given
    }
    return {key: defaulted(properties.get(key) or {}, each) for key, each in {**given, **missing}.items()}
