"""Builds manifests with kustomize and extracts the parts that the checks need."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from lladav.config.loader import expand_stages
from lladav.config.loader import load as load_training
from lladav.config.schema import Config
from lladav.errors import UserError
from serve.settings import ServeSettings, load

FOLDER = Path(__file__).resolve().parent
OVERLAYS = ("dev-cpu", "gpu", "spot")

Resource = dict[str, Any]
"""A Kubernetes object."""

TRAIN = "train/run.py"
"""Command of training in the entrypoint of a RayJob."""


def build(folder: Path) -> list[Resource]:
    """The objects of a kustomization, as ``kubectl apply -k`` sends them.

    Raises ``UserError`` if kubectl is missing or refuses the folder.
    """
    return list(yaml.load_all(_built(folder), yaml.CSafeLoader))


def with_component(folder: Path, component: str) -> list[Resource]:
    """The objects of an overlay with an additional component."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = shutil.copytree(FOLDER, Path(temporary) / "k8s")
        overlay = copy / folder.relative_to(FOLDER)
        file = overlay / "kustomization.yaml"
        kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
        kustomization.setdefault("components", []).append(f"../../components/{component}")
        file.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return build(overlay)


@lru_cache(32)
def _built(folder: Path) -> str:
    if shutil.which("kubectl") is None:
        raise UserError("kubectl is not installed; the checks build manifests with it")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{folder}: kustomize refuses it: {' '.join(done.stderr.split())}")
    return done.stdout


def title(resource: Resource) -> str:
    """``Kind name``."""
    return f"{resource.get('kind')} {resource.get('metadata', {}).get('name')}"


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def cluster_spec(resource: Resource) -> Resource | None:
    """The spec of the Ray cluster in a resource; None if it has none."""
    spec = resource.get("spec") or {}
    if resource["kind"] == "RayCluster":
        return spec
    return spec.get("rayClusterConfig") or spec.get("rayClusterSpec")


def pod_templates(resource: Resource) -> Iterator[tuple[str, Resource]]:
    """All pod templates of a resource, with their paths."""
    spec = resource.get("spec") or {}
    if resource["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield "spec.template", spec["template"]
    if "submitterPodTemplate" in spec:
        yield "spec.submitterPodTemplate", spec["submitterPodTemplate"]
    cluster = cluster_spec(resource)
    if cluster is not None:
        yield "headGroupSpec.template", cluster["headGroupSpec"]["template"]
        for group in cluster.get("workerGroupSpecs") or []:
            yield f"workerGroupSpecs[{group['groupName']}].template", group["template"]


def ray_head(resource: Resource) -> Resource:
    """The pod spec of a Ray cluster's head."""
    cluster = cluster_spec(resource)
    assert cluster is not None
    return cluster["headGroupSpec"]["template"]["spec"]


def ray_env(pod: Resource) -> dict[str, str | None]:
    """Variables of the Ray container, which is the first; None for a value from a reference."""
    containers = pod.get("containers") or [{}]
    return {each["name"]: each.get("value") for each in containers[0].get("env") or []}


def serve_settings(service: Resource) -> ServeSettings:
    """The settings in a RayService."""
    [application] = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    return load(application["args"])


def training_configs(job: Resource) -> list[Config]:
    """The settings of the stages that a RayJob trains, in their order; none for batch inference."""
    return list(_configs_of(job["spec"]["entrypoint"]))


@lru_cache(64)
def _configs_of(entrypoint: str) -> tuple[Config, ...]:
    _, program, *overrides = shlex.split(entrypoint)
    return tuple(load_training(each) for each in expand_stages(overrides)) if program == TRAIN else ()


def ray_cluster(resource: Resource, namespace: str = "lladav") -> Resource:
    """The RayCluster that the operator creates for a RayJob or a RayService."""
    metadata = {"name": resource["metadata"]["name"], "namespace": namespace}
    spec = cluster_spec(resource)
    assert spec is not None
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}
