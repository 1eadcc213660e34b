"""Who may talk to whom, computed from the NetworkPolicies of all rendered folders, against manifests/network.yaml.

As Kubernetes says it: a pod that a policy selects may do what some policy allows, any other everything.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import git_access
import yaml
from rendering import MANIFESTS, Object, containers, name_of, templates

Pair = tuple[str, str, str]
"""From, to (ours as namespace/name), port/protocol."""
ANY = 65535
"""Stands for a port that nobody names: open only where a policy names no ports."""


@dataclass(frozen=True)
class Actor:
    """Somebody who may talk or be talked to."""

    name: str
    namespace: str | None
    labels: dict[str, str] = field(default_factory=dict)
    address: str = "10.244.0.9"
    """A pod's is in some private range, so that rules about ranges hold for it, too."""
    ports: tuple[tuple[str | None, int, str], ...] = ()
    """Name, number, protocol of those it listens on; empty: not known."""

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass
class Cluster:
    """All policies, namespaces and actors at once."""

    policies: list[Object]
    namespaces: dict[str, dict[str, str]]
    ours: set[str]
    actors: list[Actor]

    def shown(self, actor: Actor) -> str:
        return actor.full_name if actor.namespace in self.ours else actor.name


def load(manifests: Path = MANIFESTS) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((manifests / "network.yaml").read_text(encoding="utf-8"))
    return content


def differences(renders: dict[str, list[Object]], listed: dict[str, Any] | None = None) -> list[str]:
    """What is open and not listed, what is listed and closed, and rules about nobody known."""
    listed = listed if listed is not None else load()
    cluster = cluster_of(renders, listed)
    expected = ways(cluster, listed)
    found = set(open_pairs(cluster))
    return [
        *(
            f"network: {a} -> {b} {port} is open, and not in network.yaml"
            for a, b, port in sorted(found - expected)
        ),
        *(f"network: {a} -> {b} {port} is in network.yaml, and closed" for a, b, port in sorted(expected - found)),
        *_rules_about_nobody(cluster),
        *_closed_remotes(cluster, renders),
    ]


def _closed_remotes(cluster: Cluster, renders: dict[str, list[Object]]) -> Iterator[str]:
    """Pods whose Git answers at a port to which no policy lets them, wherever it is."""
    outside = [actor for actor in cluster.actors if actor.namespace is None]
    for template in templates([thing for rendered in renders.values() for thing in rendered]):
        for remote in git_access.remotes(template):
            way = git_access.port(remote)
            source = next(
                a
                for a in cluster.actors
                if (a.namespace, a.name) == (template.namespace, _short(template.metadata))
            )
            if way is not None and not any(_allowed(cluster, source, target, way, "TCP") for target in outside):
                yield f"network: {source.full_name} asks Git at {remote}, and no policy lets it out at {way}/TCP"


def ways(cluster: Cluster, listed: dict[str, Any]) -> set[Pair]:
    """Return every way that is listed."""
    return {
        (_qualified(cluster, namespace, pair["from"]), _qualified(cluster, namespace, pair["to"]), port)
        for pair in listed["pairs"]
        for namespace in pair["in"]
        for port in pair["ports"]
    }


def open_pairs(cluster: Cluster) -> Iterator[Pair]:
    """Every way that is open from or to a pod of our namespaces."""
    named = sorted(numbers(cluster))
    for source in cluster.actors:
        for target in cluster.actors:
            inside = {source.namespace, target.namespace} & cluster.ours
            if source == target or not inside:
                continue
            known = [(number, protocol) for _, number, protocol in target.ports]
            for number, protocol in [*known, (ANY, "TCP")] if known else named:
                if _allowed(cluster, source, target, number, protocol):
                    yield cluster.shown(source), cluster.shown(target), f"{number}/{protocol}"


def cluster_of(renders: dict[str, list[Object]], listed: dict[str, Any]) -> Cluster:
    things = [thing for rendered in renders.values() for thing in rendered]
    namespaces = {
        thing["metadata"]["name"]: thing["metadata"].get("labels", {})
        for thing in things
        if thing["kind"] == "Namespace"
    }
    ours = set(namespaces)
    actors = {
        (template.namespace, _short(template.metadata)): Actor(
            _short(template.metadata),
            template.namespace,
            template.metadata["labels"],
            ports=tuple(
                (port.get("name"), port["containerPort"], port.get("protocol", "TCP"))
                for _, container in containers(template)
                for port in container.get("ports", [])
            ),
        )
        for template in templates(things)
        if template.namespace in ours
    }
    for name, other in listed["others"].items():
        where = other.get("namespace")
        for namespace in where if isinstance(where, list) else [where]:
            if namespace is not None:
                namespaces.setdefault(namespace, other.get("namespace_labels", {}))
            address = {"address": other["address"]} if "address" in other else {}
            actors.setdefault((namespace, name), Actor(name, namespace, other.get("labels", {}), **address))
    for namespace, labels in namespaces.items():
        namespaces[namespace] = {**labels, "kubernetes.io/metadata.name": namespace}
    policies = [thing for thing in things if thing["kind"] == "NetworkPolicy"]
    return Cluster(policies, namespaces, ours, list(actors.values()))


def _short(metadata: dict[str, Any]) -> str:
    name: str = metadata["labels"]["app.kubernetes.io/name"]
    return name


def _qualified(cluster: Cluster, namespace: str, name: str) -> str:
    return next((a.full_name for a in cluster.actors if (a.namespace, a.name) == (namespace, name)), name)


def _allowed(cluster: Cluster, source: Actor, target: Actor, number: int, protocol: str) -> bool:
    def passes(actor: Actor, direction: str, peers: str, other: Actor) -> bool:
        policies = [
            policy
            for policy in cluster.policies
            if direction.capitalize() in policy["spec"]["policyTypes"] and _selects(policy, actor)
        ]
        if actor.namespace not in cluster.ours or not policies:
            return True
        return any(
            _port_matches(rule.get("ports"), target, number, protocol)
            and (not rule.get(peers) or any(_peer_matches(cluster, policy, p, other) for p in rule[peers]))
            for policy in policies
            for rule in policy["spec"].get(direction, [])
        )

    return passes(source, "egress", "to", target) and passes(target, "ingress", "from", source)


def _selects(policy: Object, actor: Actor) -> bool:
    return actor.namespace == policy["metadata"]["namespace"] and _matches(
        policy["spec"]["podSelector"], actor.labels
    )


def _peer_matches(cluster: Cluster, policy: Object, peer: dict[str, Any], actor: Actor) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(actor.address)
        block = peer["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(hole) for hole in block.get("except", []))
    if actor.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], cluster.namespaces[actor.namespace]):
            return False
    elif actor.namespace != policy["metadata"]["namespace"]:
        return False
    return _matches(peer.get("podSelector", {}), actor.labels)


def _port_matches(ports: list[dict[str, Any]] | None, target: Actor, number: int, protocol: str) -> bool:
    if not ports:
        return True
    named = {name for name, listened, _ in target.ports if listened == number}
    return any(
        port.get("protocol", "TCP") == protocol
        and (
            "port" not in port
            or port["port"] in {number, *named}
            or port["port"] < number <= port.get("endPort", 0)
        )
        if not isinstance(port.get("port"), str)
        else port["port"] in named and port.get("protocol", "TCP") == protocol
        for port in ports
    )


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        value, values = labels.get(expression["key"]), expression.get("values", [])
        operator = expression["operator"]
        held = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[operator]
        if not held:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def numbers(cluster: Cluster) -> set[tuple[int, str]]:
    """Every port that a policy names by number, and one that none does."""
    return {(ANY, "TCP")} | {
        (port["port"], port.get("protocol", "TCP"))
        for policy in cluster.policies
        for direction in ("ingress", "egress")
        for rule in policy["spec"].get(direction, [])
        for port in rule.get("ports", [])
        if isinstance(port.get("port"), int)
    }


def _rules_about_nobody(cluster: Cluster) -> Iterator[str]:
    """A rule for somebody who is not listed would open a way that is not computed."""
    for policy in cluster.policies:
        where = f"network: {policy['metadata']['namespace']}: {name_of(policy)}"
        if not any(_selects(policy, actor) for actor in cluster.actors):
            yield f"{where} selects nobody"
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                for peer in rule.get(peers, []):
                    if not any(_peer_matches(cluster, policy, peer, actor) for actor in cluster.actors):
                        yield f"{where}: {peer} is nobody in network.yaml"
