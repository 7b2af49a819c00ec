"""The validation that KubeRay 1.7's operator does beyond its CRDs, reimplemented from its behaviour.

The API server accepts such resources; the operator then ignores them and reports an event. Feature gates are
assumed to have their default, off, except for the gate of incremental upgrades.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from k8s.manifests import Resource, cluster_spec, ray_env

MAX_CLUSTER_NAME, SUFFIX = 53, 6
"""Characters of a cluster's name, and of the suffix that the operator adds to a job's or service's name."""
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SIZES = ("num-cpus", "num-gpus", "memory", "resources")
REDIS = ("redis-username", "redis-password", "REDIS_USERNAME", "REDIS_PASSWORD", "RAY_REDIS_ADDRESS")
"""Start parameters and variables of the head for Redis."""
FEATURE_GATES = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}
INVALID_FIELDS = {
    "SidecarMode": ("submitterPodTemplate", "submitterConfig"),
    "InteractiveMode": ("backoffLimit",),
}
"""Fields that a submission mode does not allow."""
MINIMUM = {"activeDeadlineSeconds": 1, "preRunningDeadlineSeconds": 1, "backoffLimit": 0}
UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")


def check(resource: Resource) -> Iterator[str]:
    """The errors that the operator would report; nothing for resources of other kinds."""
    kind = resource["kind"]
    if cluster_spec(resource) is None and kind not in ("RayJob", "RayService"):
        return
    yield from _name(resource["metadata"]["name"], MAX_CLUSTER_NAME - (0 if kind == "RayCluster" else SUFFIX))
    spec = cluster_spec(resource)
    if spec is None:
        yield "has no Ray cluster; write rayClusterSpec or rayClusterConfig"
        return
    yield from _cluster(spec, owned=kind != "RayCluster")
    if kind == "RayJob":
        yield from _job(resource["spec"])
    if kind == "RayService":
        yield from _service(resource["spec"])


def _name(name: str, max_length: int) -> Iterator[str]:
    if len(name) > max_length:
        yield f"metadata.name: {name} is longer than {max_length} characters"
    if not LABEL.fullmatch(name):
        yield f"metadata.name: {name} is not a DNS label that starts with a letter"


def _cluster(spec: Resource, owned: bool) -> Iterator[str]:
    groups = spec.get("workerGroupSpecs") or []
    scales = bool(spec.get("enableInTreeAutoscaling"))
    for name, group in [("head", spec["headGroupSpec"]), *((each["groupName"], each) for each in groups)]:
        yield from (f"group {name}: {line}" for line in _group(group))
    for group in groups:
        yield from (f"group {group['groupName']}: {line}" for line in _workers(group, scales))
    for field, gate in FEATURE_GATES.items():
        if field in spec:
            yield f"{field}: needs the operator's feature gate {gate}"
    if owned and "upgradeStrategy" in spec:
        yield "upgradeStrategy: not allowed in the cluster of a RayJob or a RayService"
    yield from _autoscaler(spec, scales)
    yield from _fault_tolerance(spec)
    yield from _authentication(spec)


def _group(group: Resource) -> Iterator[str]:
    start = group.get("rayStartParams") or {}
    if not group["template"]["spec"].get("containers"):
        yield "has no container"
    if group.get("resources") and any(start.get(size) for size in SIZES):
        yield "resources are set in both rayStartParams and resources; keep one"
    if "labels" in start:
        yield "rayStartParams.labels: use the group's labels"


def _workers(group: Resource, scales: bool) -> Iterator[str]:
    low, high = group.get("minReplicas"), group.get("maxReplicas")
    if not scales and (low is None or high is None):
        yield "without autoscaling minReplicas and maxReplicas are both required"
    if low is not None and high is not None and not 0 <= low <= high:
        yield f"minReplicas {low} and maxReplicas {high} are not in ascending order from 0"
    if group.get("suspend"):
        yield "suspend: needs the feature gate RayJobDeletionPolicy, and no autoscaling"
    if not scales and (group.get("idleTimeoutSeconds") or group.get("priority")):
        yield "idleTimeoutSeconds and priority need autoscaling"


def _autoscaler(spec: Resource, scales: bool) -> Iterator[str]:
    options = spec.get("autoscalerOptions") or {}
    head = spec["headGroupSpec"]["template"]["spec"]
    by_env = ray_env(head).get("RAY_enable_autoscaler_v2")
    if by_env in ("1", "true") and not scales:
        yield "RAY_enable_autoscaler_v2 is set without enableInTreeAutoscaling"
    if by_env is not None and options.get("version"):
        yield "RAY_enable_autoscaler_v2 and autoscalerOptions.version are both set; keep the latter"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds is negative"
    if scales and options.get("version") == "v2":
        pods = [head, *(group["template"]["spec"] for group in spec.get("workerGroupSpecs") or [])]
        if any(pod.get("restartPolicy", "Never") != "Never" for pod in pods):
            yield "restartPolicy must be Never or absent with autoscaler v2"


def _fault_tolerance(spec: Resource) -> Iterator[str]:
    options, head = spec.get("gcsFaultToleranceOptions"), spec["headGroupSpec"]
    env, start = ray_env(head["template"]["spec"]), head.get("rayStartParams") or {}
    present = {name for name in REDIS if name in env or start.get(name)}
    if present & {"redis-username", "REDIS_USERNAME"}:
        yield "set the Redis user in gcsFaultToleranceOptions.redisUsername"
    if options is None and "RAY_REDIS_ADDRESS" in present:
        yield "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
    if options is not None:
        for name in sorted(present & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "redis-password"}):
            yield f"{name} is set in addition to gcsFaultToleranceOptions"
        yield from _backend(options)


def _backend(options: dict[str, Any]) -> Iterator[str]:
    backend = options.get("backend", "redis")
    if backend == "redis" and "storage" in options:
        yield "gcsFaultToleranceOptions.storage is only for the backend rocksdb"
    if backend == "rocksdb":
        yield "gcsFaultToleranceOptions.backend: rocksdb needs a feature gate that is off by default"


def _authentication(spec: Resource) -> Iterator[str]:
    options = spec.get("authOptions") or {}
    if options.get("mode") != "token":
        if options.get("enableK8sTokenAuth"):
            yield "authOptions.enableK8sTokenAuth needs authOptions.mode: token"
        return
    numbers = [int(part) for part in re.findall(r"\d+", spec.get("rayVersion") or "")[:2]]
    if numbers < [2, 52]:
        yield "authOptions.mode: token needs rayVersion 2.52.0 or later"
    if options.get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth does not work in a RayJob or a RayService"


def _job(spec: Resource) -> Iterator[str]:
    shuts_down, mode = bool(spec.get("shutdownAfterJobFinishes")), spec.get("submissionMode", "K8sJobMode")
    for field in ("suspend", "ttlSecondsAfterFinished"):
        if spec.get(field) and not shuts_down:
            yield f"{field} needs shutdownAfterJobFinishes"
    for field, minimum in MINIMUM.items():
        if spec.get(field) is not None and spec[field] < minimum:
            yield f"{field}: {spec[field]} is less than {minimum}"
    if "deletionStrategy" in spec:
        yield "deletionStrategy: needs the feature gate RayJobDeletionPolicy"
    for field in INVALID_FIELDS.get(mode, ()):
        if spec.get(field):
            yield f"{field} is not allowed with {mode}"
    yield from _runtime_env(spec.get("runtimeEnvYAML", ""))


def _runtime_env(text: str) -> Iterator[str]:
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        yield "runtimeEnvYAML is not YAML"


def _service(spec: Resource) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy") or {}
    kind = strategy.get("type", UPGRADES[0])
    if kind not in UPGRADES:
        yield f"upgradeStrategy.type: {kind} is not one of {', '.join(UPGRADES)}"
    if kind == "NewClusterWithIncrementalUpgrade":
        yield from _incremental(spec, strategy.get("clusterUpgradeOptions"))
    head_service = spec["rayClusterConfig"]["headGroupSpec"].get("headService") or {}
    if (head_service.get("metadata") or {}).get("name"):
        yield "headGroupSpec.headService.metadata.name: must be absent, the operator names this service"


def _incremental(spec: Resource, options: dict[str, Any] | None) -> Iterator[str]:
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "an incremental upgrade needs enableInTreeAutoscaling"
    if options is None:
        yield "an incremental upgrade needs clusterUpgradeOptions"
        return
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not 0 <= step <= surge <= 100:
        yield f"clusterUpgradeOptions: stepSizePercent {step}, maxSurgePercent {surge}: not ascending to 100"
    if options.get("intervalSeconds", 0) <= 0:
        yield "clusterUpgradeOptions.intervalSeconds is not positive"
    if not options.get("gatewayClassName"):
        yield "clusterUpgradeOptions.gatewayClassName is missing"
