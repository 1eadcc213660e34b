"""Find the champion: what an environment serves now, by Git -> the model that a new one must beat.

Fetches nothing; evaluate does. Run anew each time, and small, so that evaluate is repeated only when the champion
has changed.
"""

import json
from pathlib import Path
from typing import Any

from components.step import run_step
from troika.folders import write_atomic
from troika.params import Params
from troika.releases.pointer import Release, last_of_each_model, read_history, read_release


class FindChampionParams(Params):
    """Section `find_champion` of params.yaml."""

    branch: str


def find_champion(champion: Path, remote: str, environment: str, params: FindChampionParams) -> None:
    """Write down which model is released.

    Args:
        champion: JSON file to write: environment, and model, digest, version and store of the released model;
            before the first release the environment alone. `others` holds the same of models of other names,
            as they were served last: each is the champion of its own successors.
        remote: URL or folder of the Git repository that the serving side follows.
        environment: overlay whose release.yaml is read, such as local, staging or production.
        params: section `find_champion`.

    Raises:
        ReleaseError: the remote cannot be read, or its release.yaml is not valid.
    """
    found = read_release(remote, environment, params.branch)
    record: dict[str, Any] = {"environment": environment}
    if found is not None:
        record |= _facts(found)
        last = last_of_each_model(read_history(remote, environment, params.branch))
        if others := {model: _facts(past) for model, past in sorted(last.items()) if model != found.model}:
            record["others"] = others
    write_atomic(champion, json.dumps(record, indent=1) + "\n")
    said = (
        f"version {found.version}, {found.model} {found.digest[:19]}" if found else "none: nothing is released yet"
    )
    print(f"champion of {environment}: {said}")


def _facts(release: Release) -> dict[str, str | int]:
    return {
        "model": release.model,
        "digest": release.digest,
        "version": release.version,
        "store": release.store,
    }


if __name__ == "__main__":
    run_step(find_champion)
