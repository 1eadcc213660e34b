"""A node: containerd, kubelet, kube-proxy, a controller for NetworkPolicies, and the cluster's DNS."""

import json
from pathlib import Path

import yaml
from binaries import CNI, STATE, Binaries
from images import Image, image_of_files
from kubectl import PROGRAM, Kubectl, Object
from machine import DNS_ADDRESS, NODE_ADDRESS, OUTSIDE_ADDRESS, PODS, SERVICES, Machine, wait_for

NODE = "node-1"
_SOCKET = "/run/containerd/containerd.sock"
_PAUSE = "localhost:5001/pause:1"


def small_images() -> dict[str, Image]:
    """Return images of one program each; `busybox` probes, listens and waits."""
    folder = STATE / "images"
    folder.mkdir(parents=True, exist_ok=True)
    commands = (
        "cat",
        "id",
        "ls",
        "mkdir",
        "nc",
        "nslookup",
        "rm",
        "sh",
        "sleep",
        "stat",
        "timeout",
        "touch",
        "true",
    )
    return {
        "busybox": image_of_files(
            folder / "busybox.tar", "localhost:5001/busybox", {"/bin/busybox": Path("/usr/bin/busybox")},
            entrypoint=("/bin/sleep", "infinity"), links={f"/bin/{each}": "busybox" for each in commands},
        ),
        "kubectl": image_of_files(
            folder / "kubectl.tar", "localhost:5001/kubectl", {"/bin/kubectl": PROGRAM.resolve()},
            entrypoint=("/bin/kubectl",),
        ),
        "coredns": image_of_files(
            folder / "coredns.tar", "localhost:5001/coredns", {"/bin/coredns": STATE / "bin" / "coredns"},
            entrypoint=("/bin/coredns",),
        ),
    }  # fmt: skip


def start_node(machine: Machine, binaries: Binaries, pki: Path, images: dict[str, Image]) -> None:
    """Start what makes the machine a node of the cluster."""
    _start_containerd(machine)
    for image in images.values():
        load(machine, image)
    machine.run("ctr", "--namespace=k8s.io", "images", "tag", images["busybox"].reference, _PAUSE)
    settings = _write(machine.folder / "kubelet.yaml", _kubelet(machine, pki))
    machine.start(
        "kubelet", binaries["kubelet"], f"--config={settings}", f"--hostname-override={NODE}",
        f"--kubeconfig={machine.folder}/kubelet.kubeconfig", f"--node-ip={NODE_ADDRESS}",
        f"--root-dir={machine.folder}/kubelet", "--node-labels=topology.kubernetes.io/zone=z1",
    )  # fmt: skip
    settings = _write(machine.folder / "kube-proxy.yaml", _kube_proxy(machine))
    machine.start("kube-proxy", binaries["kube-proxy"], f"--config={settings}")


def start_policies(machine: Machine, binaries: Binaries) -> None:
    """Start what enforces NetworkPolicies; it asks for its node first."""
    machine.start(
        "kube-router", binaries["kube-router"], f"--kubeconfig={machine.folder}/admin-inside.kubeconfig",
        "--run-router=false", "--run-service-proxy=false", "--run-loadbalancer=false", "--run-firewall=true",
        f"--hostname-override={NODE}", f"--service-cluster-ip-range={SERVICES}", "--enable-cni=false",
    )  # fmt: skip


def load(machine: Machine, image: Image) -> None:
    """Put an image into containerd; nothing is ever pulled."""
    machine.run("ctr", "--namespace=k8s.io", "images", "import", "--no-unpack", image.archive, timeout=300)


def import_built(machine: Machine, archive: Path, tag: str) -> str:
    """Put an image that an engine has saved into containerd; its name by digest."""
    images = ("ctr", "--namespace=k8s.io", "images")
    machine.run(*images, "import", archive, timeout=600)
    (line,) = [
        row
        for row in machine.run(*images, "list").stdout.splitlines()
        if row.startswith(f"docker.io/library/{tag} ")
    ]
    reference = f"localhost:5001/{tag.split(':', maxsplit=1)[0]}@{line.split()[2]}"
    machine.run(*images, "tag", line.split()[0], reference)
    return reference


def cluster_dns(image: str) -> list[Object]:
    """Return CoreDNS: the cluster's names, two of the outside, and no others."""
    labels = {"k8s-app": "kube-dns"}
    corefile = f"""
        cluster.local:53 in-addr.arpa:53 {{
          errors
          ready
          kubernetes cluster.local in-addr.arpa {{
            pods insecure
          }}
          cache 5
        }}
        example:53 {{
          hosts {{
            {OUTSIDE_ADDRESS} git.example s3.example
          }}
        }}
        .:53 {{
          template IN ANY . {{
            rcode NXDOMAIN
          }}
        }}
    """
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    container = {
        "name": "coredns",
        "image": image,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"containerPort": 53, "protocol": protocol} for protocol in ("UDP", "TCP")],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    ports = [{"name": f"dns-{each.lower()}", "port": 53, "protocol": each} for each in ("UDP", "TCP")]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "troika-test-coredns"}
    account = {"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}
    return [
        _thing("v1", "ServiceAccount", "coredns"),
        _thing("rbac.authorization.k8s.io/v1", "ClusterRole", role["name"], rules=rules),
        _thing(
            "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", role["name"], roleRef=role, subjects=[account]
        ),
        _thing("v1", "ConfigMap", "coredns", data={"Corefile": corefile}),
        _thing(
            "apps/v1", "Deployment", "coredns",
            spec={
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        ),
        _thing(
            "v1", "Service", "kube-dns",
            spec={"clusterIP": DNS_ADDRESS, "selector": labels, "ports": ports},
        ),
    ]  # fmt: skip


def volumes(folder: Path) -> list[Object]:
    """Return a default StorageClass and volumes for it, each an empty folder of root's, as fresh disks are."""
    found = [
        {
            **_thing(
                "storage.k8s.io/v1", "StorageClass", "standard",
                provisioner="kubernetes.io/no-provisioner", volumeBindingMode="WaitForFirstConsumer",
            ),
        }
    ]  # fmt: skip
    found[0]["metadata"]["annotations"] = {"storageclass.kubernetes.io/is-default-class": "true"}
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}]
    for number in range(6):
        path = folder / f"volume-{number}"
        path.mkdir(parents=True, mode=0o755)
        found.append(
            _thing(
                "v1", "PersistentVolume", path.name,
                spec={
                    "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "standard", "local": {"path": str(path)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
                },
            )
        )  # fmt: skip
    return found


def _thing(version: str, kind: str, name: str, **content: object) -> Object:
    metadata: Object = {"name": name}
    if kind in {"ServiceAccount", "ConfigMap", "Deployment", "Service"}:
        metadata["namespace"] = "kube-system"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def node_is_ready(kubectl: Kubectl) -> None:
    """Return when pods can be scheduled."""

    def ready() -> bool:
        done = kubectl.run("get", "node", NODE, "--output=json", "--ignore-not-found").stdout
        status = json.loads(done)["status"] if done else {}
        return any((c["type"], c["status"]) == ("Ready", "True") for c in status.get("conditions", []))

    wait_for(ready, 60, "node")


def _start_containerd(machine: Machine) -> None:
    cni = machine.folder / "cni"
    cni.mkdir()
    network = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp", "ipMasq": False, "mtu": 1400,
                "ipam": {
                    "type": "host-local", "dataDir": "/run/cni-ipam",
                    "ranges": [[{"subnet": PODS.replace("/16", "/24")}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }  # fmt: skip
    (cni / "10-pods.conflist").write_text(json.dumps(network), encoding="utf-8")
    config = machine.folder / "containerd.toml"
    # Not every machine lets a process become less likely to be killed for memory, hence restrict_oom_score_adj.
    config.write_text(
        f"""
version = 2
root = "{machine.folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{_PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
""",
        encoding="utf-8",
    )
    machine.start("containerd", "containerd", f"--config={config}")
    # The runtime service comes last, and the kubelet ends at its first refusal.
    wait_for(lambda: "containerd successfully booted" in machine.log("containerd"), 60, "containerd")


def _kubelet(machine: Machine, pki: Path) -> Object:
    (machine.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # for pods without the cluster's DNS
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{machine.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_ADDRESS],
        "resolvConf": f"{machine.folder}/resolv.conf",
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "maxOpenFiles": 20000,
        "oomScoreAdj": 0,
        "serializeImagePulls": False,
        # A change is told at once; else pods are ready seconds later than they are.
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
    }


def _kube_proxy(machine: Machine) -> Object:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{machine.folder}/kube-proxy.kubeconfig"},
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        # What would be set for the whole machine stays.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
    }


def _write(path: Path, content: Object) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
