"""Where Kubernetes says how many engines there are: parts agree with each other and with the Serve config."""

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

pytestmark = pytest.mark.usefixtures("overlays")  # with which tests are skipped where kubectl is missing
COMPONENT = FOLDER / "components" / "external-scaling"


@pytest.fixture(scope="module")
def resources() -> dict[str, Resource]:
    """The smallest overlay with the component, by kind and name, and the HPA that may take KEDA's place."""
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
    """The options of the follower, as its command line gives them."""
    [container] = resources["Deployment lladav-follow-scale"]["spec"]["template"]["spec"]["containers"]
    python, flag, module, *arguments = container["command"]
    assert [python, flag, module] == ["python", "-m", "serve.ops.follow_scale"]
    return options_of(arguments)


def test_what_is_scaled_is_the_wish_that_is_followed(
    resources: dict[str, Resource], scalers: list[dict[str, Any]], follower: Any
) -> None:
    assert f"Deployment {follower.wish}" in resources
    assert [each["scaleTargetRef"]["name"] for each in scalers] == [follower.wish] * 2


def test_nobody_but_the_autoscaler_says_how_many_there_are(
    resources: dict[str, Resource], follower: Any
) -> None:
    assert "replicas" not in resources[f"Deployment {follower.wish}"]["spec"]


def test_bounds_are_those_of_the_engines(
    resources: dict[str, Resource], scalers: list[dict[str, Any]], follower: Any
) -> None:
    keda, hpa = scalers
    engine = serve_settings(resources["RayService lladav"]).engine
    bounds = engine.min_replicas, engine.max_replicas
    assert (follower.min, follower.max) == bounds
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == bounds
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == bounds


def test_the_follower_asks_the_head_of_the_service(resources: dict[str, Resource], follower: Any) -> None:
    """KubeRay names that Service after the RayService; it stays when clusters are replaced."""
    [service] = of_kind([*resources.values()], "RayService")
    assert str(follower.dashboard) == f"http://{service['metadata']['name']}-head-svc:8265"
    assert (follower.app, follower.deployment) == ("lladav", "engine")


def test_the_follower_may_read_the_wish_and_nothing_else(
    resources: dict[str, Resource], follower: Any
) -> None:
    [rule] = resources["Role lladav-follow-scale"]["rules"]
    assert rule == {
        "apiGroups": ["apps"],
        "resources": ["deployments/scale"],
        "resourceNames": [follower.wish],
        "verbs": ["get"],
    }
    [subject] = resources["RoleBinding lladav-follow-scale"]["subjects"]
    pod = resources["Deployment lladav-follow-scale"]["spec"]["template"]["spec"]
    assert (subject["name"], subject["namespace"]) == (pod["serviceAccountName"], "lladav")


def test_the_follower_has_the_token_that_ray_asks_for(resources: dict[str, Resource]) -> None:
    cluster = resources["RayService lladav"]["spec"]["rayClusterConfig"]
    [container] = resources["Deployment lladav-follow-scale"]["spec"]["template"]["spec"]["containers"]
    [token] = container["env"]
    secret = token["valueFrom"]["secretKeyRef"]
    assert (token["name"], secret["key"]) == ("RAY_AUTH_TOKEN", "auth_token")
    assert cluster["authOptions"] == {"mode": "token", "secretName": secret["name"]}


def test_the_serve_config_that_is_explained_is_the_one_that_passes(resources: dict[str, Resource]) -> None:
    config = yaml.safe_load(resources["RayService lladav"]["spec"]["serveConfigV2"])
    [told] = yaml.safe_load(commented("kustomization.yaml"))["applications"]
    [application] = config["applications"]
    half = {**application, "args": {**application["args"], **told["args"]}}
    assert told["name"] == application["name"]
    with pytest.raises(UserError, match="external_scaler_enabled: true"):
        check({**config, "applications": [half]})
    check({**config, "applications": [{**half, "external_scaler_enabled": told["external_scaler_enabled"]}]})


def test_both_ask_prometheus_the_same_and_for_what_there_is(scalers: list[dict[str, Any]]) -> None:
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


def test_both_fill_as_many_rows_as_our_own_policy(
    resources: dict[str, Resource], scalers: list[dict[str, Any]]
) -> None:
    keda, hpa = scalers
    upper = serve_settings(resources["RayService lladav"]).scaling.upper
    [trigger], [metric] = keda["triggers"], hpa["metrics"]
    assert float(trigger["metadata"]["threshold"]) == upper
    assert metric["external"]["target"]["averageValue"] == f"{1000 * upper:.0f}m"
    assert trigger["metricType"] == metric["external"]["target"]["type"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]


def test_the_hpa_is_one(resources: dict[str, Resource]) -> None:
    """Overlays do not have it, so that their checks leave it out."""
    assert [*schema.check(resources["HorizontalPodAutoscaler lladav-engines-wanted"])] == []


def commented(file: str) -> str:
    """The YAML that a comment shows, indented by more than one space."""
    lines = (COMPONENT / file).read_text(encoding="utf-8").splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("#   "))
