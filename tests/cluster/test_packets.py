"""Who reaches whom, by packets: all of manifests/network.yaml, and everybody else, who must not.

Each actor of the file is a pod that listens wherever somebody might ask, and asks everybody. What is outside the
cluster is there only where the cluster was started here.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import network
import pytest
from kubectl import Object, remove_namespaces
from machine import OUTSIDE_ADDRESS, wait_for
from pods import small_pod
from whole import Cluster

NAMES = {"dns", "cluster-api", "cluster-api-node"}
"""Actors that are there already."""
OUTSIDE = {"public-address": OUTSIDE_ADDRESS, "private-address": "10.1.2.3", "cloud-metadata": "169.254.169.254"}
APPLIED = {"Namespace", "NetworkPolicy", "Service", "ServiceAccount"}
# A name is a thing that UDP carries; anything else is a connection.
ASK = """
while read -r address port; do
  if [ "$port" = 53/UDP ]; then
    (timeout 4 nslookup -type=a kubernetes.default.svc.cluster.local "$address" >/dev/null 2>&1 \
      && echo "$address $port") &
  else
    (nc -w 3 "$address" "${port%/TCP}" -e /bin/true </dev/null >/dev/null 2>&1 && echo "$address $port") &
  fi
done
wait
"""
Way = tuple[str, str, str]
"""From, to (namespace/name for pods of ours), port/protocol."""


def listening(ports: list[str]) -> str:
    """Return a shell script that takes connections on TCP ports, with either of busybox's two kinds of nc."""
    numbers = " ".join(port.split("/")[0] for port in ports if port.endswith("/TCP"))
    return (
        f"for port in {numbers}; do (nc -lk -p $port -e /bin/true 2>/dev/null"
        " || exec nc -ll -p $port -e /bin/true) & done; wait; exec sleep 3600"
    )


class World:
    """All actors as pods, with all policies."""

    def __init__(self, cluster: Cluster, renders: dict[str, list[Object]]) -> None:
        self.cluster, self.kubectl = cluster, cluster.kubectl
        self.listed = network.load()
        self.model = network.cluster_of(renders, self.listed)
        self.numbers = sorted(f"{number}/{protocol}" for number, protocol in network.numbers(self.model))
        self.addresses: dict[str, str] = {}
        self.pods = [a for a in self.model.actors if a.namespace is not None and a.name not in NAMES]
        self._apply(renders)

    def _apply(self, renders: dict[str, list[Object]]) -> None:
        things = [t for rendered in renders.values() for t in rendered if t["kind"] in APPLIED]
        self.kubectl.apply(sorted(things, key=lambda thing: thing["kind"] != "Namespace"))
        for name, labels in self.model.namespaces.items():
            if name not in self.model.ours:
                own = {key: value for key, value in labels.items() if not key.startswith("kubernetes.io/")}
                metadata = {"name": name, "labels": own}
                self.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
        low_ports = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}
        pods = [
            small_pod(
                str(actor.namespace), f"actor-{actor.name}", self.cluster.busybox, listening(self.ports(actor)),
                labels=actor.labels, ports=actor.ports, securityContext=low_ports,
            )
            for actor in self.pods
        ]  # fmt: skip
        self.kubectl.apply(pods)
        for namespace in sorted({str(actor.namespace) for actor in self.pods}):
            names = [f"pod/actor-{a.name}" for a in self.pods if a.namespace == namespace]
            self.kubectl.wait("condition=Ready", *names, f"--namespace={namespace}", seconds=240)
        for actor in self.pods:
            found = self.kubectl.get("pod", f"actor-{actor.name}", actor.namespace)
            self.addresses[self.model.shown(actor)] = found["status"]["podIP"]
        (dns,) = self.kubectl.list("pods", "kube-system", "k8s-app=kube-dns")[:1]
        api = self.kubectl.get("service", "kubernetes", "default")["spec"]["clusterIP"]
        self.addresses |= {"dns": dns["status"]["podIP"], "cluster-api": api}
        self._listeners: list[str] = []
        if self.cluster.machine is not None:
            self._start_outside()

    def _start_outside(self) -> None:
        """Let addresses that are no pods answer, on every port that a policy names."""
        machine = self.cluster.machine
        assert machine is not None
        for address in OUTSIDE.values():
            machine.run("ip", "addr", "replace", f"{address}/32", "dev", "out1", network="outside")
        ports = [port for port in self.numbers if port.endswith("/TCP")]
        for port in ports:
            number = port.split("/")[0]
            listen = ("busybox", "nc", "-ll", "-p", number, "-e", "/bin/true")
            machine.start(f"outside-{number}", *listen, network="outside")
            self._listeners.append(f"outside-{number}")
            if number != "6443":  # the API server's own
                machine.start(f"node-{number}", *listen)
                self._listeners.append(f"node-{number}")
        self.addresses |= {**OUTSIDE, "cluster-api-node": "172.18.0.2"}

    def close(self) -> None:
        """Stop what listens outside of pods: other tests start programs of their own on these ports."""
        for name in self._listeners:
            assert self.cluster.machine is not None
            self.cluster.machine.stop(name)

    def ports(self, actor: network.Actor) -> list[str]:
        """Return the ports that an actor is asked on: its own and one more, or, where none is known, all."""
        if actor.name == "cluster-api":
            return ["443/TCP"]
        own = [f"{number}/{protocol}" for _, number, protocol in actor.ports]
        found = [*own, f"{network.ANY}/TCP"] if own else self.numbers
        # Only the cluster's DNS answers by UDP.
        return [port for port in found if port.endswith("/TCP") or actor.name == "dns"]

    def asked(self, source: network.Actor) -> list[tuple[str, str]]:
        """Return whom a pod asks: everybody, if one of both is ours."""
        return [
            (self.model.shown(target), port)
            for target in self.model.actors
            if target != source
            and self.model.shown(target) in self.addresses
            and {source.namespace, target.namespace} & self.model.ours
            for port in self.ports(target)
        ]

    def open_from(self, source: network.Actor) -> set[Way]:
        """Return the ways that are open from a pod."""
        names = {address: name for name, address in self.addresses.items()}
        lines = "".join(f"{self.addresses[name]} {port}\n" for name, port in self.asked(source))
        shown = self.model.shown(source)
        answered = self.ask(str(source.namespace), source.name, lines)
        return {(shown, names[line.split()[0]], line.split()[1]) for line in answered}

    def ask(self, namespace: str, name: str, lines: str) -> list[str]:
        """Return the lines, each an address and a port, that a pod gets an answer from."""
        where = ("exec", "--stdin", f"--namespace={namespace}", f"actor-{name}", "--", "/bin/sh", "-c", ASK)
        return self.kubectl.run(*where, text=lines).stdout.splitlines()

    def open(self) -> set[Way]:
        """Return all ways that are open from pods."""
        with ThreadPoolExecutor(4) as pool:
            return {way for found in pool.map(self.open_from, self.pods) for way in found}

    def expected(self) -> set[Way]:
        """Return the ways of network.yaml between those who are here."""
        possible = {(self.model.shown(source), *asked) for source in self.pods for asked in self.asked(source)}
        return {way for way in network.ways(self.model, self.listed) if way in possible}


@pytest.fixture(scope="module")
def world(cluster: Cluster, renders: dict[str, list[Object]]) -> Iterator[World]:
    made = World(cluster, renders)
    yield made
    made.close()
    kubectl = cluster.kubectl
    remove_namespaces(kubectl, [n["metadata"]["name"] for n in kubectl.list("namespaces", selector="") if ours(n)])
    for namespace in ("default", "shop", "kubeflow", "monitoring"):
        kubectl.run("delete", "pods", "--all", f"--namespace={namespace}", "--wait=false", "--force")


def ours(namespace: Object) -> bool:
    return str(namespace["metadata"]["name"]).startswith("troika-")


def test_what_is_listed_is_open_and_nothing_else(world: World) -> None:
    expected = world.expected()
    assert len(expected) >= 54
    found: set[Way] = set()

    def agrees() -> bool:
        nonlocal found
        found = world.open()
        return found == expected

    try:
        wait_for(agrees, 90, "policies")
    except AssertionError:
        assert sorted(found - expected) == []
        assert sorted(expected - found) == []
    asked = sum(len(world.asked(source)) for source in world.pods)
    assert asked - len(expected) > len(expected)  # as many that must be closed, and more


def test_services_lead_where_their_pods_may_be_asked(world: World) -> None:
    """By the Services' own addresses and named ports."""
    for namespace in ("troika-local", "troika-staging", "troika-production"):
        address = world.kubectl.get("service", "triton", namespace)["spec"]["clusterIP"]
        lines = f"{address} 8000/TCP\n{address} 8001/TCP\n"
        for name, may in (("client", True), ("stranger", False)):
            done = world.kubectl.run(
                "exec",
                "--stdin",
                f"--namespace={namespace}",
                f"actor-{name}",
                "--",
                "/bin/sh",
                "-c",
                ASK,
                text=lines,
            )
            assert sorted(done.stdout.splitlines()) == (lines.splitlines() if may else []), f"{namespace}: {name}"


def test_nobody_outside_reaches_a_pod(world: World) -> None:
    machine = world.cluster.machine
    if machine is None:
        pytest.skip("the cluster was not started here: nobody is outside")
    inside = {
        f"{world.addresses[world.model.shown(actor)]} {port}"
        for actor in world.pods
        if actor.namespace in world.model.ours
        for port in world.ports(actor)
    }
    free = world.addresses["client-namespace"]
    # One that no policy protects is reached: the way is there.
    text = "".join(f"{line}\n" for line in [*sorted(inside), f"{free} 443/TCP"])
    done = machine.run("busybox", "sh", "-c", ASK.replace("nc -w", "busybox nc -w"), network="outside", text=text)
    assert done.stdout.splitlines() == [f"{free} 443/TCP"]


def test_without_a_policy_the_way_is_open(world: World) -> None:
    """The test sees what it must not find: a namespace whose policies are gone."""
    triton = next(a for a in world.pods if a.full_name == "troika-staging/triton")
    stranger = next(a for a in world.pods if a.full_name == "troika-staging/stranger")
    way = (world.model.shown(stranger), world.model.shown(triton), f"{network.ANY}/TCP")
    assert way not in world.open_from(stranger)
    policies = world.kubectl.list("networkpolicies", "troika-staging")
    world.kubectl.delete("networkpolicy", "--all", namespace="troika-staging")
    wait_for(lambda: way in world.open_from(stranger), 90, "open way")
    for policy in policies:
        policy["metadata"] = {key: policy["metadata"][key] for key in ("name", "namespace")}
    world.kubectl.apply(policies)
    wait_for(lambda: way not in world.open_from(stranger), 90, "closed way")
