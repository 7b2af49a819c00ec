"""Validates fields and values against the schemas of Kubernetes and custom resources, and of their pods.

Stricter than the API server, which drops unknown fields: here they are mistakes.
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
"""The oldest and the newest supported version of Kubernetes."""
CORE = {"v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1", "scheduling.k8s.io/v1"}
CORE |= {"rbac.authorization.k8s.io/v1", "autoscaling/v2"}


def check(resource: Resource) -> Iterator[str]:
    """Unknown kinds, unknown fields and wrong types in a resource."""
    version, kind = str(resource.get("apiVersion")), str(resource.get("kind"))
    if version in CORE:
        yield from _core(resource, title(resource))
    elif (version, kind) in schemas():
        yield from _custom(resource, version, kind)
        for path, template in pod_templates(resource):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
            yield from _core(pod, f"{title(resource)}: {path}")
    else:
        yield f"{title(resource)}: unknown API version {version}; add its schema to k8s/crds"


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
    """A Kubernetes schema as JSON Schema; objects that list their properties allow no others."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    converted = {key: strict(value) for key, value in schema.items() if key not in ("properties", "default")}
    if "properties" in schema:
        converted["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        if not _is_open(schema):
            converted.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        converted["type"] = [schema["type"], "null"]
    return converted


def _is_open(schema: Schema) -> bool:
    marks = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")
    return any(schema.get(mark) for mark in marks)


def defaulted(schema: Schema, value: Any) -> Any:
    """The value as the API server stores it: without nulls, with the schema's defaults."""
    if isinstance(value, list):
        return [defaulted(schema.get("items") or {}, each) for each in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") or {}
    present = {key: each for key, each in value.items() if each is not None}
    missing = {
        k: copy.deepcopy(p["default"]) for k, p in properties.items() if "default" in p and k not in present
    }
    return {key: defaulted(properties.get(key) or {}, each) for key, each in {**present, **missing}.items()}
