"""Resources that the operator would refuse are errors, with the name of the field."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.checks.kuberay_validation import check
from k8s.manifests import Resource
from tests.k8s.edits import changed

CLUSTER = "rayClusterConfig"
HEAD = (CLUSTER, "headGroupSpec")
WORKERS = (CLUSTER, "workerGroupSpecs", 0)
ENV = (*HEAD, "template", "spec", "containers", 0, "env")


def test_our_resources_are_accepted(service: Resource, job: Resource) -> None:
    assert [*check(service), *check(job)] == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*HEAD, "template", "spec", "containers"), [], "head: has no container"),
        ((*HEAD, "resources"), {"CPU": "1"}, "head: resources are set in both"),
        ((*WORKERS, "rayStartParams"), {"labels": "a=b"}, "engines: rayStartParams.labels"),
        ((*WORKERS, "minReplicas"), 9, "engines: minReplicas 9 and maxReplicas 5"),
        ((*WORKERS, "suspend"), True, "engines: suspend"),
        ((*WORKERS, "template", "spec", "restartPolicy"), "Always", "restartPolicy must be Never"),
        ((CLUSTER, "networkPolicy"), {"mode": "DenyAll"}, "feature gate RayClusterNetworkPolicy"),
        ((CLUSTER, "upgradeStrategy"), {"type": "Recreate"}, "upgradeStrategy: not allowed in the cluster"),
        (ENV, [{"name": "RAY_enable_autoscaler_v2", "value": "1"}], "autoscalerOptions.version are both set"),
        (ENV, [{"name": "RAY_REDIS_ADDRESS", "value": "a"}], "RAY_REDIS_ADDRESS is set in addition to"),
        (ENV, [{"name": "REDIS_USERNAME", "value": "a"}], "set the Redis user in"),
        ((*HEAD, "rayStartParams"), {"redis-password": "x"}, "redis-password is set in addition to"),
        ((CLUSTER, "gcsFaultToleranceOptions", "storage"), {"size": "1Gi"}, "only for the backend rocksdb"),
        ((CLUSTER, "gcsFaultToleranceOptions"), {"backend": "rocksdb"}, "a feature gate that is off"),
        ((CLUSTER, "rayVersion"), "2.51.1", "needs rayVersion 2.52.0"),
        ((CLUSTER, "rayVersion"), None, "needs rayVersion 2.52.0"),
        ((CLUSTER, "authOptions"), {"enableK8sTokenAuth": True}, "needs authOptions.mode: token"),
        ((CLUSTER, "authOptions", "enableK8sTokenAuth"), True, "does not work in a RayJob or a RayService"),
        ((CLUSTER, "autoscalerOptions", "idleTimeoutSeconds"), -1, "idleTimeoutSeconds is negative"),
        (("upgradeStrategy", "type"), "Rolling", "Rolling is not one of NewCluster"),
        (("upgradeStrategy", "type"), "NewClusterWithIncrementalUpgrade", "needs clusterUpgradeOptions"),
        ((*HEAD, "headService"), {"metadata": {"name": "mine"}}, "the operator names this service"),
    ],
)  # fmt: skip
def test_services(service: Resource, path: tuple[str | int, ...], value: Any, says: str) -> None:
    assert any(says in line for line in check(changed(service, path, value)))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("shutdownAfterJobFinishes",), False, "suspend needs shutdownAfterJobFinishes"),
        (("shutdownAfterJobFinishes",), False, "ttlSecondsAfterFinished needs"),
        (("activeDeadlineSeconds",), 0, "activeDeadlineSeconds: 0 is less than 1"),
        (("backoffLimit",), -1, "backoffLimit: -1"),
        (("deletionStrategy",), {"onSuccess": {}}, "feature gate RayJobDeletionPolicy"),
        (("submissionMode",), "SidecarMode", "submitterPodTemplate is not allowed with SidecarMode"),
        (("submissionMode",), "InteractiveMode", "backoffLimit is not allowed with InteractiveMode"),
        (("runtimeEnvYAML",), "a: [", "runtimeEnvYAML is not YAML"),
        (("rayClusterSpec",), None, "has no Ray cluster"),
        (
            ("rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"),
            None,
            "minReplicas and maxReplicas are both required",
        ),
        (("rayClusterSpec", "workerGroupSpecs", 0, "idleTimeoutSeconds"), 9, "need autoscaling"),
    ],
)
def test_jobs(job: Resource, path: tuple[str | int, ...], value: Any, says: str) -> None:
    assert any(says in line for line in check(changed(job, path, value)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stepSizePercent": 60, "maxSurgePercent": 50}, "not ascending"),
        ({"intervalSeconds": 0}, "intervalSeconds is not positive"),
        ({"gatewayClassName": ""}, "gatewayClassName is missing"),
    ],
)
def test_incremental_upgrades(service: Resource, options: dict[str, Any], says: str) -> None:
    usable = {"stepSizePercent": 5, "intervalSeconds": 10, "gatewayClassName": "g"}
    strategy = {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": usable}
    assert [*check(changed(service, ("upgradeStrategy",), strategy))] == []
    strategy["clusterUpgradeOptions"] = {**usable, **options}
    assert any(says in line for line in check(changed(service, ("upgradeStrategy",), strategy)))


def test_names_leave_room_for_the_operators_suffix(job: Resource) -> None:
    def accepted(name: str) -> bool:
        return not any(check({**job, "metadata": {"name": name}}))

    assert accepted("a" * 47)
    assert not any(map(accepted, ("a" * 48, "1a", "a.b", "")))
