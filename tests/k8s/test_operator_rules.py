"""What the operator would refuse is refused here, with the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.checks.operator_rules import check
from k8s.manifests import Resource
from tests.k8s.edits import changed

CLUSTER = "rayClusterConfig"
HEAD = (CLUSTER, "headGroupSpec")
WORKERS = (CLUSTER, "workerGroupSpecs", 0)
ENV = (*HEAD, "template", "spec", "containers", 0, "env")


def test_what_is_applied_is_accepted(service: Resource, job: Resource) -> None:
    assert [*check(service), *check(job)] == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*HEAD, "template", "spec", "containers"), [], "head: has no container"),
        ((*HEAD, "resources"), {"CPU": "1"}, "head: resources stand both"),
        ((*WORKERS, "rayStartParams"), {"labels": "a=b"}, "engines: rayStartParams.labels"),
        ((*WORKERS, "minReplicas"), 9, "engines: minReplicas 9 and maxReplicas 4"),
        ((*WORKERS, "suspend"), True, "engines: suspend"),
        ((*WORKERS, "template", "spec", "restartPolicy"), "Always", "restartPolicy must be Never"),
        ((CLUSTER, "networkPolicy"), {"mode": "DenyAll"}, "feature gate RayClusterNetworkPolicy"),
        ((CLUSTER, "upgradeStrategy"), {"type": "Recreate"}, "upgradeStrategy: not in a cluster"),
        (ENV, [{"name": "RAY_enable_autoscaler_v2", "value": "1"}], "autoscalerOptions.version are both set"),
        (ENV, [{"name": "RAY_REDIS_ADDRESS", "value": "a"}], "RAY_REDIS_ADDRESS is set beside"),
        (ENV, [{"name": "REDIS_USERNAME", "value": "a"}], "the Redis user belongs into"),
        ((*HEAD, "rayStartParams"), {"redis-password": "x"}, "redis-password is set beside"),
        ((CLUSTER, "gcsFaultToleranceOptions", "storage"), {"size": "1Gi"}, "for the backend rocksdb alone"),
        ((CLUSTER, "gcsFaultToleranceOptions"), {"backend": "rocksdb"}, "a feature gate that is off"),
        ((CLUSTER, "rayVersion"), "2.51.1", "needs rayVersion 2.52.0"),
        ((CLUSTER, "rayVersion"), None, "needs rayVersion 2.52.0"),
        ((CLUSTER, "authOptions"), {"enableK8sTokenAuth": True}, "needs authOptions.mode: token"),
        ((CLUSTER, "authOptions", "enableK8sTokenAuth"), True, "does not work in a RayJob or a RayService"),
        ((CLUSTER, "autoscalerOptions", "idleTimeoutSeconds"), -1, "idleTimeoutSeconds is negative"),
        (("upgradeStrategy", "type"), "Rolling", "Rolling is none of NewCluster"),
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
        (("submissionMode",), "SidecarMode", "submitterPodTemplate is not for SidecarMode"),
        (("submissionMode",), "InteractiveMode", "backoffLimit is not for InteractiveMode"),
        (("runtimeEnvYAML",), "a: [", "runtimeEnvYAML is no YAML"),
        (("rayClusterSpec",), None, "has no Ray cluster"),
        (
            ("rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"),
            None,
            "are both needed without autoscaling",
        ),
        (("rayClusterSpec", "workerGroupSpecs", 0, "idleTimeoutSeconds"), 9, "need autoscaling"),
    ],
)
def test_jobs(job: Resource, path: tuple[str | int, ...], value: Any, says: str) -> None:
    assert any(says in line for line in check(changed(job, path, value)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stepSizePercent": 60, "maxSurgePercent": 50}, "do not ascend"),
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


def test_names_leave_room_for_what_the_operator_adds(job: Resource) -> None:
    def accepted(name: str) -> bool:
        return not any(check({**job, "metadata": {"name": name}}))

    assert accepted("a" * 47)
    assert not any(map(accepted, ("a" * 48, "1a", "a.b", "")))
