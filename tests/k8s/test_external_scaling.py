"""Scaling by Kubernetes: the manifests agree with each other and with the Serve config."""

from __future__ import annotations

import re
from typing import Any

import promql_parser
import pytest
import yaml

from k8s.checks import alerts, schema
from k8s.manifests import FOLDER, Resource, of_kind, serve_settings, title, with_component
from lladav.errors import UserError
from serve.ops.config_check import check
from serve.ops.follow_scale import options_of

pytestmark = pytest.mark.usefixtures("overlays")  # skips the tests if kubectl is missing
COMPONENT = FOLDER / "components" / "external-scaling"


@pytest.fixture(scope="module")
def resources() -> dict[str, Resource]:
    """The smallest overlay with the component, and the HPA that can replace KEDA, by kind and name."""
    built = with_component(FOLDER / "overlays" / "dev-cpu", COMPONENT.name)
    hpa = yaml.safe_load((COMPONENT / "hpa.yaml").read_text(encoding="utf-8"))
    return {title(each): each for each in [*built, hpa]}


@pytest.fixture(scope="module")
def scalers(resources: dict[str, Resource]) -> list[dict[str, Any]]:
    return [
        each["spec"] for each in of_kind([*resources.values()], "ScaledObject", "HorizontalPodAutoscaler")
    ]


@pytest.fixture(scope="module")
def follower(resources: dict[str, Resource]) -> Any:
    """The options in the follower's command line."""
    [container] = resources["Deployment lladav-follow-scale"]["spec"]["template"]["spec"]["containers"]
    python, flag, module, *arguments = container["command"]
    assert [python, flag, module] == ["python", "-m", "serve.follow_scale"]
    return options_of(arguments)


def test_the_autoscalers_scale_the_placeholder_that_is_followed(
    resources: dict[str, Resource], scalers: list[dict[str, Any]], follower: Any
) -> None:
    assert f"Deployment {follower.placeholder}" in resources
    assert [each["scaleTargetRef"]["name"] for each in scalers] == [follower.placeholder] * 2


def test_the_manifest_does_not_set_the_replica_count(resources: dict[str, Resource], follower: Any) -> None:
    assert "replicas" not in resources[f"Deployment {follower.placeholder}"]["spec"]


def test_bounds_are_those_of_the_engines(
    resources: dict[str, Resource], scalers: list[dict[str, Any]], follower: Any
) -> None:
    keda, hpa = scalers
    engine = serve_settings(resources["RayService lladav"]).engine
    bounds = engine.min_replicas, engine.max_replicas
    assert (follower.min, follower.max) == bounds
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == bounds
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == bounds


def test_the_follower_uses_the_dashboard_of_the_rayservice(
    resources: dict[str, Resource], follower: Any
) -> None:
    """KubeRay names this Service after the RayService; it stays when the Ray cluster is replaced."""
    [service] = of_kind([*resources.values()], "RayService")
    assert str(follower.dashboard) == f"http://{service['metadata']['name']}-head-svc:8265"
    assert (follower.app, follower.deployment) == ("lladav", "engine")


def test_the_follower_may_only_read_the_scale_of_the_placeholder(
    resources: dict[str, Resource], follower: Any
) -> None:
    [rule] = resources["Role lladav-follow-scale"]["rules"]
    assert rule == {
        "apiGroups": ["apps"],
        "resources": ["deployments/scale"],
        "resourceNames": [follower.placeholder],
        "verbs": ["get"],
    }
    [subject] = resources["RoleBinding lladav-follow-scale"]["subjects"]
    pod = resources["Deployment lladav-follow-scale"]["spec"]["template"]["spec"]
    assert (subject["name"], subject["namespace"]) == (pod["serviceAccountName"], "lladav")


def test_the_follower_has_rays_token(resources: dict[str, Resource]) -> None:
    cluster = resources["RayService lladav"]["spec"]["rayClusterConfig"]
    [container] = resources["Deployment lladav-follow-scale"]["spec"]["template"]["spec"]["containers"]
    [token] = container["env"]
    secret = token["valueFrom"]["secretKeyRef"]
    assert (token["name"], secret["key"]) == ("RAY_AUTH_TOKEN", "auth_token")
    assert cluster["authOptions"] == {"mode": "token", "secretName": secret["name"]}


def test_the_serve_config_in_the_comment_passes(resources: dict[str, Resource]) -> None:
    config = yaml.safe_load(resources["RayService lladav"]["spec"]["serveConfigV2"])
    [documented] = yaml.safe_load(commented("kustomization.yaml"))["applications"]
    [application] = config["applications"]
    half = {**application, "args": {**application["args"], **documented["args"]}}
    assert documented["name"] == application["name"]
    with pytest.raises(UserError, match="external_scaler_enabled: true"):
        check({**config, "applications": [half]})
    check(
        {
            **config,
            "applications": [{**half, "external_scaler_enabled": documented["external_scaler_enabled"]}],
        }
    )


def test_both_autoscalers_use_the_same_query_of_existing_metrics(scalers: list[dict[str, Any]]) -> None:
    keda, hpa = scalers
    [rule] = yaml.safe_load(commented("hpa.yaml"))["externalRules"]
    [trigger], [metric] = keda["triggers"], hpa["metrics"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="lladav"')
    assert query == trigger["metadata"]["query"]
    names = {name.removeprefix("ray_") for name in re.findall(r"\bray_\w+", query + rule["seriesQuery"])}
    assert len(names) == 3
    assert names <= alerts.SERIES
    promql_parser.parse(query)
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]


def test_both_autoscalers_have_the_same_threshold_as_the_built_in_policy(
    resources: dict[str, Resource], scalers: list[dict[str, Any]]
) -> None:
    keda, hpa = scalers
    upper = serve_settings(resources["RayService lladav"]).scaling.upper
    [trigger], [metric] = keda["triggers"], hpa["metrics"]
    assert float(trigger["metadata"]["threshold"]) == upper
    assert metric["external"]["target"]["averageValue"] == f"{1000 * upper:.0f}m"
    assert trigger["metricType"] == metric["external"]["target"]["type"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]


def test_the_hpa_fits_the_schema(resources: dict[str, Resource]) -> None:
    """No overlay contains it, so the checks of overlays do not cover it."""
    assert [*schema.check(resources["HorizontalPodAutoscaler lladav-engines-wanted"])] == []


def commented(file: str) -> str:
    """The YAML in a comment: the lines indented by more than one space."""
    lines = (COMPONENT / file).read_text(encoding="utf-8").splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("#   "))
