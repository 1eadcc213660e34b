"""How long a test waits where production waits for minutes: the only place that changes it, and nothing else."""

import copy
from typing import Any

from kubectl import Object

# Field -> what it is in a test. Of Rollouts, of their analyses and of Deployments.
SHORT: dict[str, Any] = {
    "minReadySeconds": 1,
    "initialDelay": "10s",
    "interval": "5s",
}
_KINDS = {"Deployment", "Rollout", "AnalysisTemplate"}


def shortened(things: list[Object]) -> list[Object]:
    """Return objects whose canaries and roll-outs wait seconds."""
    return [_changed(thing) if thing["kind"] in _KINDS else copy.deepcopy(thing) for thing in things]


def _changed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: SHORT[name] if name in SHORT and not isinstance(each, dict) else _changed(each)
            for name, each in value.items()
        }
    return [_changed(each) for each in value] if isinstance(value, list) else value
