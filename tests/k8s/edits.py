"""Changes one field of a manifest."""

from __future__ import annotations

import copy
from typing import Any

from k8s.manifests import Resource


def changed(resource: Resource, path: tuple[str | int, ...], value: Any) -> Resource:
    """A copy of the resource with a new value at a path below ``spec``; None removes the field."""
    edited = copy.deepcopy(resource)
    node: Any = edited["spec"]
    for part in path[:-1]:
        node = node[part]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return edited
