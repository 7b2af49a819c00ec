"""Ray's own KubeRay node provider scales our RayService's cluster, against an API server in memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.node_provider import IKubernetesHttpApiClient
from ray.autoscaler.v2.instance_manager.cloud_providers.kuberay.cloud_provider import KubeRayProvider

from k8s.manifests import Resource, ray_cluster

JSON_PATCH = "application/json-patch+json"


class ApiServer(IKubernetesHttpApiClient):
    """A RayCluster and its pods, reconciled as by the operator."""

    def __init__(self, cluster: Resource) -> None:
        self.cluster = copy.deepcopy(cluster)
        self.pods = [pod("head", "head", "headgroup")]
        self.created = 0
        self.reconcile()

    @property
    def group(self) -> Resource:
        return self.cluster["spec"]["workerGroupSpecs"][0]

    def get(self, path: str) -> dict[str, Any]:
        if path.startswith("pods"):
            return {"items": copy.deepcopy(self.pods), "metadata": {"resourceVersion": "1"}}
        assert path == f"rayclusters/{self.cluster['metadata']['name']}"
        return copy.deepcopy(self.cluster)

    def patch(self, path: str, payload: Any, content_type: str = JSON_PATCH) -> dict[str, Any]:
        assert (path, content_type) == ("rayclusters/lladav", JSON_PATCH)
        for operation in payload:
            *parents, last = [part for part in operation["path"].split("/") if part]
            node: Any = self.cluster
            for part in parents:
                node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
            node[last] = operation["value"]
        self.reconcile()
        return copy.deepcopy(self.cluster)

    def delete(self, path: str) -> dict[str, Any]:
        raise AssertionError(f"DELETE {path}: the operator deletes pods")

    def reconcile(self) -> None:
        """Do what KubeRay's operator does: delete the listed workers, then create missing ones."""
        deleted = set(self.group.get("scaleStrategy", {}).get("workersToDelete", []))
        self.pods = [each for each in self.pods if each["metadata"]["name"] not in deleted]
        while len(self.pods) - 1 < self.group["replicas"]:
            self.created += 1
            self.pods.append(pod(f"worker-{self.created}", "worker", self.group["groupName"]))


def pod(name: str, kind: str, group: str) -> Resource:
    labels = {"ray.io/cluster": "lladav", "ray.io/node-type": kind, "ray.io/group": group}
    state = {"containerStatuses": [{"state": {"running": {}}}], "phase": "Running", "podIP": "10.0.0.1"}
    return {"metadata": {"name": name, "labels": labels}, "status": state}


@pytest.fixture
def api(service: Resource) -> ApiServer:
    return ApiServer(
        {**ray_cluster(service), "metadata": {"name": "lladav", "namespace": "lladav", "uid": "u"}}
    )


@pytest.fixture
def provider(api: ApiServer) -> KubeRayProvider:
    no_client: Any = None
    return KubeRayProvider("lladav", {"namespace": "lladav"}, gcs_client=no_client, k8s_api_client=api)


def workers(provider: KubeRayProvider) -> set[str]:
    return {name for name, node in provider.get_non_terminated().items() if node.node_type == "engines"}


def test_our_cluster_grows_and_shrinks(api: ApiServer, provider: KubeRayProvider) -> None:
    assert workers(provider) == {"worker-1", "worker-2"}
    provider.launch({"engines": 2}, request_id="up")
    assert api.group["replicas"] == api.group["maxReplicas"] - 1 == 4
    assert workers(provider) == {"worker-1", "worker-2", "worker-3", "worker-4"}
    provider.terminate(["worker-1", "worker-3"], request_id="down")
    assert api.group["replicas"] == api.group["minReplicas"] == 2
    assert workers(provider) == {"worker-2", "worker-4"}
    assert provider.poll_errors() == []
