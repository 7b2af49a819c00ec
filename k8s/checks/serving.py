"""Checks a RayService's Serve config with ``serve.config_check``, and that the head waits for its model."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.manifests import Resource, ray_head, serve_settings
from lladav.errors import UserError
from serve.ops.config_check import check as check_config


def check(resource: Resource) -> Iterator[str]:
    """The first mistake in ``serveConfigV2``; nothing for other kinds."""
    if resource["kind"] != "RayService":
        return
    try:
        check_config(resource)
    except UserError as error:
        yield f"serveConfigV2: {error}"
        return
    model, containers = serve_settings(resource).model, ray_head(resource).get("initContainers", [])
    awaited = [
        variable["value"] for each in containers for variable in each["env"] if variable["name"] == "MODEL"
    ]
    if awaited != [model]:
        yield f"the head waits for the model {awaited}, but {model} is served"
