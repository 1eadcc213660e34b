"""Kubernetes' rules for names, paths and quantities, as types of a cluster file.

What the API server would refuse hours later, when the pod is made, is refused here by its key. The rules are those
of `k8s.io/apimachinery/pkg/util/validation` and `k8s.io/apimachinery/pkg/api/resource`; quantities are computed by
the Kubernetes client library.
"""

import posixpath
import re
from decimal import Decimal
from typing import Annotated, Any

from kubernetes.utils.quantity import parse_quantity
from pydantic import AfterValidator, BeforeValidator

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The client library reads more than the server: `K`, `NaN`, `1_0`.
_NUMBER = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?")
_LARGEST = 2**63 - 1
_LEAST_MEMORY = 128 * 2**20

_SYSTEM = (
    "/app", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin",
    "/srv", "/sys", "/tmp", "/usr", "/var", "/var/run", "/var/run/secrets",  # noqa: S108 - nothing is written there
)  # fmt: skip
"""Folders of the image; a volume in their place hides what is in them."""
_OWNED = (
    "/kfp-launcher", "/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config", "/argo", "/var/run/argo",
    "/training", "/dev/shm", "/opt/troika", "/proc", "/sys", "/var/run/secrets/kubernetes.io",  # noqa: S108 - see above
)  # fmt: skip
"""Where Kubeflow, Argo, Kubernetes and the package itself mount volumes."""
OWNED_VOLUMES = {
    "kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch", "dot-local-scratch", "dot-cache-scratch",
    "dot-config-scratch", "var-run-argo", "tmp-dir-argo", "input-artifacts", "argo-staging", "argo-env-config",
    "ca-bundle", "shared-memory",
}  # fmt: skip
"""Names of their volumes; a pod has one volume of a name."""
_OWNED_VARIABLES = (
    "KFP_",
    "ARGO_",
    "METADATA_GRPC_SERVICE_",
    "ML_PIPELINE_",
    "KUBERNETES_",
    "TROIKA_STEP_",
    "LD_",
)
"""Beginnings of the names of variables by which they speak to their own processes."""


def dns_label(text: str) -> str:
    """Return the text if it is a DNS-1123 label, as names of volumes are."""
    if len(text) > 63 or not _LABEL.fullmatch(text):
        raise ValueError(
            "it names a volume of the pod, so it must be a DNS label: at most 63 of a-z, 0-9 and -, no dot, and "
            "no - at an end"
        )
    return text


def dns_subdomain(text: str) -> str:
    """Return the text if it is a DNS-1123 subdomain, as names of objects are."""
    if len(text) > 253 or not _SUBDOMAIN.fullmatch(text):
        raise ValueError(
            "must be a name of Kubernetes: at most 253 of a-z, 0-9, - and ., letters or digits at ends"
        )
    return text


def secret_key(text: str) -> str:
    """Return the text if it can be a key of a secret."""
    if len(text) > 253 or not _KEY.fullmatch(text) or text == "." or text.startswith(".."):
        raise ValueError("must be at most 253 of letters, digits, -, _ and ., as keys of secrets are")
    return text


def variable_name(text: str) -> str:
    """Return the text if a step may have an environment variable of this name."""
    if not _VARIABLE.fullmatch(text):
        raise ValueError("must be a name of an environment variable: letters, digits and _, no digit first")
    if text in ("PATH", "HOME", "PYTHONPATH", "TROIKA_TRAINING_STATE") or text.startswith(_OWNED_VARIABLES):
        raise ValueError(f"{text} is reserved: the image, Kubeflow or Kubernetes sets it")
    return text


def mount_path(text: str) -> str:
    """Return the text if a secret may be mounted there."""
    if not text.startswith("/") or ":" in text or posixpath.normpath(text) != text or text.startswith("//"):
        raise ValueError("must be an absolute path such as /secrets/store, without :, .., // and / at its end")
    hidden = [path for path in (*_SYSTEM, *_OWNED) if within(path, text)]
    inside = [path for path in _OWNED if within(text, path)]
    if hidden or inside:
        raise ValueError(f"{(hidden or inside)[0]} is there already; mount it elsewhere, such as /secrets/store")
    return text


def within(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies in it."""
    return folder in ("/", path) or path.startswith(f"{folder}/")


def label_key(text: str) -> str:
    """Return the text if it is a qualified name: a label's or a taint's key."""
    prefix, slash, name = text.rpartition("/")
    if (slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix))) or not _is_name(name):
        raise ValueError("must be a label's key such as zone or example.com/zone; a name of at most 63 characters")
    return text


def label_value(text: str) -> str:
    """Return the text if it can be a label's or a taint's value."""
    if text and not _is_name(text):
        raise ValueError(
            "must be a label's value: at most 63 letters, digits, -, _ and ., letters or digits at ends"
        )
    return text


def extended_resource(text: str) -> str:
    """Return the text if it names a device, such as nvidia.com/gpu."""
    prefix, _, _ = label_key(text).rpartition("/")
    if (
        not prefix
        or prefix == "kubernetes.io"
        or prefix.endswith(".kubernetes.io")
        or text.startswith("requests.")
    ):
        raise ValueError("must be a resource with its vendor's domain, such as nvidia.com/gpu")
    return text


def _is_name(text: str) -> bool:
    return len(text) <= 63 and _NAME.fullmatch(text) is not None


def quantity(text: str) -> Decimal:
    """Return the number that a quantity stands for, such as 1610612736 of `1.5Gi`."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("must be a quantity of Kubernetes, such as 500m, 0.5, 2, 512Mi or 1.5Gi")
    found = Decimal(parse_quantity(text))
    if not 0 < found <= _LARGEST:
        raise ValueError("must be above 0 and below 8Ei")
    return found


def _cpu(text: str) -> str:
    milli = quantity(text) * 1000
    if milli != int(milli):
        raise ValueError("must be whole thousandths of a processor: 1m is the least")
    return f"{int(milli) // 1000}" if milli % 1000 == 0 else f"{int(milli)}m"


def _memory(text: str) -> str:
    size = _bytes(text)
    if size < _LEAST_MEMORY:
        raise ValueError(f"{text} is {size} bytes, and Python alone takes 128Mi; did you mean {_digits(text)}Gi?")
    return _canonical(size)


def _size(text: str) -> str:
    size = _bytes(text)
    if size < 2**20:
        raise ValueError(f"{text} is {size} bytes; did you mean {_digits(text)}Mi?")
    return _canonical(size)


def _bytes(text: str) -> Decimal:
    return quantity(text).to_integral_value(rounding="ROUND_CEILING")


def _digits(text: str) -> str:
    return text.rstrip("numkKMGTPEi")


def _canonical(size: Decimal) -> str:
    """Return a whole number with a unit, which KFP's SDK takes, unlike `1.5Gi` or `1e9`."""
    number, unit = int(size), 0
    while number % 1024 == 0 and unit < 6:
        number, unit = number // 1024, unit + 1
    return f"{number}{('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei')[unit]}"


def _number_as_text(value: Any) -> Any:
    """Return `2` for 2, as YAML has it without quotes."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


DnsLabel = Annotated[str, AfterValidator(dns_label)]
DnsSubdomain = Annotated[str, AfterValidator(dns_subdomain)]
SecretKey = Annotated[str, AfterValidator(secret_key)]
VariableName = Annotated[str, AfterValidator(variable_name)]
MountPath = Annotated[str, AfterValidator(mount_path)]
LabelKey = Annotated[str, AfterValidator(label_key)]
LabelValue = Annotated[str, AfterValidator(label_value)]
ExtendedResource = Annotated[str, AfterValidator(extended_resource)]
Cpu = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_cpu)]
Memory = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_memory)]
Size = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_size)]
