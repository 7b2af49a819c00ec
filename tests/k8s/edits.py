"""Manifests with one thing changed."""

from __future__ import annotations

import copy
from typing import Any

from k8s.manifests import Resource


def changed(resource: Resource, path: tuple[str | int, ...], value: Any) -> Resource:
    """The resource with something else, or with None nothing, at a path below ``spec``."""
    made = copy.deepcopy(resource)
    node: Any = made["spec"]
    for part in path[:-1]:
        node = node[part]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return made
