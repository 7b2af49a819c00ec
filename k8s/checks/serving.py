"""The Serve config inside a RayService, as strictly as ``serve.config_check`` reads it, and its model."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.manifests import Resource, ray_head, serve_settings
from lladav.errors import UserError
from serve.ops.config_check import check as check_config


def check(resource: Resource) -> Iterator[str]:
    """The first thing in ``serveConfigV2`` that Ray or our builder would not understand."""
    if resource["kind"] != "RayService":
        return
    try:
        check_config(resource)
    except UserError as error:
        yield f"serveConfigV2: {error}"
        return
    model, first = serve_settings(resource).model, ray_head(resource).get("initContainers", [])
    awaited = [value["value"] for each in first for value in each["env"] if value["name"] == "MODEL"]
    if awaited != [model]:
        yield f"the head waits for the model {awaited}, and {model} is served"
