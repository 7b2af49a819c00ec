"""The pods of an overlay, for a dry run against a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from k8s.checks.schema import check
from k8s.manifests import OVERLAYS, Resource, pod_templates
from k8s.pods import pods


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_there_is_a_valid_pod_of_each_template(overlays: dict[str, list[Resource]], overlay: str) -> None:
    resources = overlays[overlay]
    printed = [*pods(resources)]
    assert [pod["spec"] for pod in printed] == [
        template["spec"] for owner in resources for _, template in pod_templates(owner)
    ]
    assert [line for pod in printed for line in check(pod)] == []
    assert {pod["metadata"]["namespace"] for pod in printed} == {"lladav"}


def test_the_pods_of_ray_clusters_are_among_them(overlays: dict[str, list[Resource]]) -> None:
    serving = [pod for pod in pods(overlays["gpu"]) if pod["metadata"]["generateName"] == "lladav-"]
    requested = [
        pod["spec"]["containers"][0]["resources"]["requests"].get("nvidia.com/gpu") for pod in serving
    ]
    assert requested == [None, "1"]
    assert serving[0]["metadata"]["labels"]["app.kubernetes.io/component"] == "serving"


@pytest.mark.usefixtures("overlays")
def test_the_command(root: Path) -> None:
    command = [sys.executable, "-m", "k8s.pods", "k8s/overlays/spot"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert {pod["kind"] for pod in yaml.safe_load_all(done.stdout)} == {"Pod"}


@pytest.mark.usefixtures("overlays")
def test_a_folder_without_manifests_is_refused(root: Path) -> None:
    command = [sys.executable, "-m", "k8s.pods", "k8s/nowhere"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: k8s/nowhere: kustomize refuses it")


def test_without_an_overlay_the_command_says_what_it_needs(root: Path) -> None:
    command = [sys.executable, "-m", "k8s.pods"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: name one overlay")
