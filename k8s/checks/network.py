"""Network policies: what is open beyond the listed connections.

Policies are additive, so a missing one closes a connection and a wide one cannot be narrowed by another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from k8s.manifests import Resource, cluster_spec, of_kind, title

EVERYWHERE = "0.0.0.0/0"
HTTPS_PORTS = {443, 6443}
"""Ports that may be open to all addresses: HTTPS, and the API server."""
API_SERVER = ("203.0.113.1", 6443)
"""An address that stands for the API server's, which depends on the cluster."""


def check(resources: Sequence[Resource]) -> Iterator[str]:
    """Traffic that is open and should not be, and connections that the pods need and lack."""
    policies = of_kind(list(resources), "NetworkPolicy")
    denies = [p for p in policies if p["spec"]["podSelector"] == {} and not _rules(p)]
    if not any(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in denies):
        yield "NetworkPolicy: none denies all traffic by default"
    for policy in policies:
        yield from (f"{title(policy)}: {line}" for line in _ingress(policy["spec"]))
        yield from (f"{title(policy)}: {line}" for line in _egress(policy["spec"]))
    yield from _autoscalers(resources, policies)


def _rules(policy: Resource) -> list[Any]:
    return [*(policy["spec"].get("ingress") or []), *(policy["spec"].get("egress") or [])]


def _ingress(spec: Resource) -> Iterator[str]:
    """Gateways reach only Serve's port."""
    rules = spec.get("ingress") or []
    if any(not rule.get("from") for rule in rules):
        yield "allows traffic from everywhere; add from:"
    if "gateway" in str(rules):
        ports = [port["port"] for rule in rules for port in rule["ports"]]
        if ports != [8000]:
            yield f"opens {ports} to gateways; Serve's port is 8000"


def _egress(spec: Resource) -> Iterator[str]:
    """A block of addresses is a single address, or everywhere by HTTPS."""
    for rule in spec.get("egress") or []:
        if not rule.get("to"):
            yield "allows traffic to everywhere; add to:"
        ports = {port["port"] for port in rule.get("ports") or []}
        for block in (peer["ipBlock"]["cidr"] for peer in rule.get("to") or [] if "ipBlock" in peer):
            https = block == EVERYWHERE and ports and ports <= HTTPS_PORTS
            if not https and (ip_network(block).num_addresses > 1 or not ports):
                yield f"opens {sorted(ports) or 'all ports'} to {block}; name one address and its ports"


def _autoscalers(resources: Sequence[Resource], policies: Sequence[Resource]) -> Iterator[str]:
    """Ray's autoscaler in a head pod reaches the API server."""
    for resource in of_kind(list(resources), "RayJob", "RayService"):
        spec = cluster_spec(resource) or {}
        labels = {
            **spec["headGroupSpec"]["template"]["metadata"]["labels"],
            "ray.io/node-type": "head",
            "ray.io/is-ray-node": "yes",
        }
        if spec.get("enableInTreeAutoscaling") and not reaches(policies, labels, *API_SERVER):
            yield f"{title(resource)}: no NetworkPolicy lets the head reach the API server, which it needs"


def reaches(policies: Sequence[Resource], labels: dict[str, str], address: str, port: int) -> bool:
    """Whether the policies let a pod with these labels connect to an address outside of the cluster."""
    rules = (
        rule
        for policy in policies
        if selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("egress") or []
    )
    return any(_opens(rule, address, port) for rule in rules)


def _opens(rule: Resource, address: str, port: int) -> bool:
    blocks = [peer["ipBlock"]["cidr"] for peer in rule.get("to") or [] if "ipBlock" in peer]
    inside = any(ip_address(address) in ip_network(block) for block in blocks)
    return inside and port in [each["port"] for each in rule["ports"]]


def selects(selector: Resource, labels: dict[str, str]) -> bool:
    """Whether a label selector with ``matchLabels`` and ``In`` expressions selects a pod."""
    expressions = selector.get("matchExpressions") or []
    return (selector.get("matchLabels") or {}).items() <= labels.items() and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"] for each in expressions
    )
