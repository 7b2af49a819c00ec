"""Network policies that open too much, close what is needed, and switches that open one address."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from k8s.checks.network import check, reaches, selects
from k8s.manifests import FOLDER, OVERLAYS, Resource, of_kind, title, with_component

ENGINE = {"app.kubernetes.io/component": "serving", "ray.io/node-type": "worker", "ray.io/is-ray-node": "yes"}
METADATA = ("169.254.169.254", 80)
SWITCHES = {
    "network-node-local-dns": ("169.254.20.10", 53),
    "network-gke": ("169.254.169.252", 988),
    "network-eks": ("169.254.170.23", 80),
    "network-azure": METADATA,
}
"""Components, and the address and port that each one opens."""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_policies_are_accepted(overlays: dict[str, list[Resource]], overlay: str) -> None:
    assert [*check(overlays[overlay])] == []


@pytest.mark.parametrize("component", SWITCHES)
def test_a_switch_opens_its_address_and_no_other(overlays: dict[str, list[Resource]], component: str) -> None:
    before = of_kind(overlays["gpu"], "NetworkPolicy")
    after = of_kind(with_component(FOLDER / "overlays" / "gpu", component), "NetworkPolicy")
    opened = {where for where in SWITCHES.values() if reaches(after, ENGINE, *where)}
    also = {METADATA} if component == "network-gke" else set[tuple[str, int]]()  # with Dataplane V2
    assert opened == {SWITCHES[component]} | also
    assert not any(reaches(before, ENGINE, *where) for where in SWITCHES.values())


def test_only_heads_reach_the_port_of_the_api_server(overlays: dict[str, list[Resource]]) -> None:
    policies = of_kind(overlays["gpu"], "NetworkPolicy")
    head = {**ENGINE, "ray.io/node-type": "head"}
    assert reaches(policies, head, "10.96.0.1", 6443)
    assert not reaches(policies, ENGINE, "10.96.0.1", 6443)
    assert reaches(policies, ENGINE, "10.96.0.1", 443)
    assert not reaches(policies, ENGINE, "10.96.0.1", 80)


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("deny-all", "none denies all traffic"),
        ("allow-api-server", "RayService lladav: no NetworkPolicy lets the head reach the API server"),
    ],
)
def test_missing_policies(overlays: dict[str, list[Resource]], gone: str, says: str) -> None:
    rest = [each for each in overlays["gpu"] if title(each) != f"NetworkPolicy {gone}"]
    assert [says in line for line in check(rest)] == [True]


@pytest.mark.parametrize(
    ("name", "direction", "rule", "says"),
    [
        ("allow-gateway", "ingress", {"ports": [{"port": 8000}]}, "allows traffic from everywhere"),
        (
            "allow-gateway",
            "ingress",
            {
                "from": [{"namespaceSelector": {"matchLabels": {"lladav/role": "gateway"}}}],
                "ports": [{"port": 8265}],
            },
            "opens [8265] to gateways",
        ),
        ("allow-https", "egress", {"ports": [{"port": 443}]}, "allows traffic to everywhere"),
        (
            "allow-https",
            "egress",
            {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}, {"port": 80}]},
            "opens [80, 443] to 0.0.0.0/0",
        ),
        (
            "allow-https",
            "egress",
            {"to": [{"ipBlock": {"cidr": "169.254.0.0/16"}}], "ports": [{"port": 80}]},
            "opens [80] to 169.254.0.0/16",
        ),
        (
            "allow-https",
            "egress",
            {"to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}]},
            "opens all ports to 169.254.20.10/32",
        ),
    ],
)
def test_wide_rules(
    overlays: dict[str, list[Resource]], name: str, direction: str, rule: Any, says: str
) -> None:
    resources = copy.deepcopy(overlays["gpu"])
    [policy] = [resource for resource in resources if title(resource) == f"NetworkPolicy {name}"]
    policy["spec"][direction] = [rule]
    assert any(says in line for line in check(resources))


def test_selectors() -> None:
    either = {"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}
    assert selects({}, {})
    assert selects(either, {"a": "2"})
    assert not selects(either, {"a": "3"})
    assert not selects(either, {})
    assert not selects({"matchLabels": {"b": "1"}, **either}, {"a": "1"})
