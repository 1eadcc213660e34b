"""Say whether a Triton has known faults that a request can use; docs/serving-safety.md names them.

As a program, for building an image: exit status 1 for an old one.

    python -m troika.serving.triton_version /opt/tritonserver/bin/tritonserver
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OLDEST_SAFE = "2.71.0"
"""In container release 26.07, which NVIDIA's bulletin of 2026-09-08 names; no later bulletin was found."""
OLDEST_RELEASE = "26.07"
_WHEELS = {"0.7.0": "2.51.0"}
"""nvidia-pytriton and the Triton in it, which says its version only when it runs."""


def version_of(program: Path, wheel: bool) -> str | None:
    """Return the version of a `tritonserver` that does not run; None if nothing tells it.

    Args:
        program: its path; NVIDIA's images have a file TRITON_VERSION two folders above.
        wheel: whether it is the one of the nvidia-pytriton wheel.
    """
    if wheel:
        try:
            return _WHEELS.get(version("nvidia-pytriton"))
        except PackageNotFoundError:
            return None
    try:
        return (program.resolve().parents[1] / "TRITON_VERSION").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def complaint(found: str) -> str | None:
    """Return what is wrong with a Triton of this version; None for one that is new enough."""
    if _numbers(found) >= _numbers(OLDEST_SAFE):
        return None
    return (
        f"Triton {found} has known faults that one request can use; {OLDEST_SAFE} (NVIDIA's container "
        f"{OLDEST_RELEASE}) is the oldest without (docs/serving-safety.md)"
    )


def _numbers(text: str) -> tuple[int, ...]:
    """Return major and minor; nothing, which is older than all, for a text without them."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


def _main(program: Path, allowed: bool) -> int:
    found = version_of(program, wheel=False)
    if found is None:
        print(f"{program}: no TRITON_VERSION file tells its version; it is looked at again when it starts")
        return 0
    wrong = complaint(found)
    print(f"{'warning' if allowed else 'error'}: {wrong}" if wrong else f"Triton {found}")
    return 1 if wrong and not allowed else 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:] == ["true"]))
