"""Draw manifests/network.yaml as a Mermaid chart, which docs/guides/cluster.md holds:

python tests/manifests/picture.py          print it
python tests/manifests/picture.py --write  put it into the guide
"""

import re
import sys
from typing import Any

import network
from rendering import MANIFESTS

GUIDE = MANIFESTS.parent / "docs" / "guides" / "cluster.md"
_PLACE = re.compile(r"(?<=<!-- tests/manifests/picture.py -->\n).*?(?=<!-- end -->)", re.DOTALL)


def chart(listed: dict[str, Any]) -> str:
    """Return one arrow for each pair, whatever the environments; names are everybody's, so they stand beside."""
    arrows: dict[tuple[str, str], set[str]] = {}
    for pair in listed["pairs"]:
        if pair["to"] != "dns":
            arrows.setdefault((pair["from"], pair["to"]), set()).update(pair["ports"])
    lines = [
        f'    {source} -- "{", ".join(_numbers(ports))}" --> {target}'
        for (source, target), ports in sorted(arrows.items())
    ]
    return "\n".join(("```mermaid", "flowchart LR", *lines, "```", ""))


def _numbers(ports: set[str]) -> list[str]:
    return [str(number) for number in sorted(int(port.split("/")[0]) for port in ports)]


def in_guide(text: str) -> str:
    """Return the chart that a guide holds."""
    (found,) = _PLACE.findall(text)
    return str(found)


if __name__ == "__main__":
    drawn = chart(network.load())
    if sys.argv[1:] == ["--write"]:
        text = GUIDE.read_text(encoding="utf-8")
        GUIDE.write_text(_PLACE.sub(lambda _: drawn, text), encoding="utf-8")
    else:
        print(drawn)
