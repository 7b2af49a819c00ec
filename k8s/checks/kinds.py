"""Kinds that an empty cluster does not know: ``kubectl apply`` ends with an error without their CRDs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from k8s.checks.schema import CORE
from k8s.manifests import FOLDER, Resource

KUBERAY = "ray.io/v1"
"""Of KubeRay, the only operator that every overlay needs."""


def check(
    resources: Sequence[Resource], component: str | None = None, readme: str | None = None
) -> Iterator[str]:
    """Foreign kinds of an overlay, and of a component if the README does not name kind and component."""
    text = readme or (FOLDER / "README.md").read_text(encoding="utf-8")
    versions = {(each["apiVersion"], each["kind"]) for each in resources}
    for version, kind in sorted(versions):
        if version in CORE or version == KUBERAY:
            continue
        if component is None:
            yield f"{kind}: an empty cluster has no {version}; move it to a component"
        elif not any(f"`{component}`" in line and f"`{kind}`" in line for line in text.splitlines()):
            yield f"{kind}: k8s/README.md does not say that the component `{component}` needs this kind"
