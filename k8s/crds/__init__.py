"""Schemas of the custom resources in our manifests.

``kuberay-1.7.0.json.xz`` holds those of KubeRay's ``RayCluster``, ``RayJob`` and ``RayService`` (Apache-2.0),
extracted from its release by ``python -m k8s.crds FOLDER``. ``others.yaml`` describes the parts of the
Prometheus operator's and KEDA's resources that the manifests use.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
KINDS = ("RayCluster", "RayJob", "RayService")
"""The kinds that our manifests use; a release of KubeRay has more."""
KUBERAY = FOLDER / "kuberay-1.7.0.json.xz"

Schema = dict[str, Any]


@cache
def schemas() -> Mapping[tuple[str, str], Schema]:
    """OpenAPI schemas by API version and kind."""
    kuberay = json.loads(lzma.decompress(KUBERAY.read_bytes()))
    others = yaml.safe_load((FOLDER / "others.yaml").read_text(encoding="utf-8"))
    return {tuple(key.rsplit(" ", 1)): schema for key, schema in {**kuberay, **others}.items()}  # type: ignore[misc]


def extracted(folder: Path) -> dict[str, Schema]:
    """The schemas of version ``v1`` of ``KINDS`` in a folder of CRDs."""
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        crd = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)["spec"]
        for version in crd["versions"]:
            if version["name"] == "v1" and crd["names"]["kind"] in KINDS:
                found[f"{crd['group']}/v1 {crd['names']['kind']}"] = version["schema"]["openAPIV3Schema"]
    return found


def packed(folder: Path) -> bytes:
    """The contents of ``KUBERAY`` for a folder of CRDs."""
    text = json.dumps(extracted(folder), sort_keys=True, separators=(",", ":"))
    return lzma.compress(text.encode(), preset=9)
