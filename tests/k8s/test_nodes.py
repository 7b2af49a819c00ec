"""Steps that need more than the nodes that the README names."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from k8s.checks.nodes import GIB, check, nodes, requests, steps
from k8s.manifests import FOLDER, OVERLAYS, Resource, of_kind
from lladav.errors import UserError
from tests.k8s.edits import changed

README = (FOLDER / "README.md").read_text(encoding="utf-8")
ROW = "| `dev-cpu` | the tiny model | 1 node of 8 cores, 24 GiB |"


def test_nodes_are_read_from_the_readme() -> None:
    assert nodes("dev-cpu", ROW) == [{"CPU": 8, "memory": 24 * GIB, "GPU": 0}]
    two = nodes("gpu", "| `gpu` | 8B | 2 nodes of 96 cores, 1000 GiB, 8 GPUs of 80 GB each |")
    assert two == [{"CPU": 96, "memory": 1000 * GIB, "GPU": 8}] * 2
    with pytest.raises(UserError, match="names no nodes for spot"):
        nodes("spot", ROW)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_step_fits(overlays: dict[str, list[Resource]], overlay: str) -> None:
    assert [*check(overlay, overlays[overlay])] == []
    assert len([*steps(overlays[overlay])]) > len(of_kind(overlays[overlay], "RayJob"))


def test_a_job_that_fits_only_without_the_idle_service(overlays: dict[str, list[Resource]]) -> None:
    """The pods of the first version of the overlay, which a real scheduler could not place on eight cores."""
    resources = copy.deepcopy(overlays["dev-cpu"])
    for resource in of_kind(resources, "RayJob", "RayService"):
        spec = resource["spec"].get("rayClusterSpec") or resource["spec"]["rayClusterConfig"]
        set_request(spec["headGroupSpec"], "1")
        set_request(spec["workerGroupSpecs"][0], "3" if resource["kind"] == "RayJob" else "2")
    line = next(line for line in check("dev-cpu", resources) if "lladav-si" in line)
    assert line.startswith("RayJob lladav-si: 8.35 cores")
    assert "1 x system pods 0.95 cores, 1 x operator 0.1 cores, 1 x RayService head 1.2 cores" in line
    assert "k8s/README.md names 8.00 cores, 24.0 GiB, 0 GPUs on 1 nodes" in line


def set_request(group: Resource, cores: str) -> None:
    group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = cores


def test_memory_and_gpus_count_too(overlays: dict[str, list[Resource]]) -> None:
    small = ROW.replace("24 GiB", "12 GiB")
    assert any("RayJob lladav-vw" in line for line in check("dev-cpu", overlays["dev-cpu"], small))
    few = README.replace("1000 GiB, 8 GPUs", "1000 GiB, 4 GPUs")
    assert any("RayJob lladav-vw" in line for line in check("gpu", overlays["gpu"], few))


def test_a_pod_that_fits_the_sum_but_no_node(service: Resource) -> None:
    """Two nodes have the memory together that one pod requests."""
    container = ("rayClusterConfig", "workerGroupSpecs", 0, "template", "spec", "containers", 0)
    large: Any = {"cpu": "8", "memory": "1200Gi", "nvidia.com/gpu": "1"}
    grown = changed(service, (*container, "resources", "requests"), large)
    one = changed(grown, ("rayClusterConfig", "workerGroupSpecs", 0, "maxReplicas"), 1)
    found = [*check("gpu", [one], README)]
    assert any("with all replicas" in line for line in found)


def test_a_pod_requests_the_sum_of_its_containers_or_its_largest_init_container() -> None:
    def container(cpu: str, memory: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}}}

    pod = {
        "containers": [container("500m", "1Gi"), container("1", "1Gi")],
        "initContainers": [container("1", "3Gi")],
    }
    assert requests(pod) == {"CPU": 1.5, "memory": 3 * GIB, "GPU": 0}
