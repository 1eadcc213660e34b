"""Release a model: point Git at a published bundle. The only writer of the Git pointer.

Does not touch a cluster: whatever follows the repository (Argo CD, Flux, `troika serve`) does.
"""

import json
import tempfile
from pathlib import Path

from pydantic import Field

from components.step import run_step
from troika.errors import ReleaseError
from troika.folders import write_atomic
from troika.params import Params
from troika.releases import local
from troika.releases.pointer import release as move_pointer
from troika.releases.store import PublishedModel
from troika.serving.golden import check_published


class ReleaseModelParams(Params):
    """Section `release_model` of params.yaml."""

    branch: str
    attempts: int = Field(ge=1)
    replace: bool
    """True lets the model take the place of one with another name."""
    golden_test: bool
    """Load the model with a real Triton first, and compare its answers with the golden ones."""


def release_model(
    published: Path, release: Path, remote: str, environment: str, params: ReleaseModelParams
) -> None:
    """Test the model on a real Triton, then make one commit that changes one file, unless Git says so already.

    Args:
        published: file that publish_model wrote.
        release: JSON file to write: version, digest, previous digest, commit; or, where publish_model has recorded
            that the model was not published, that nothing was released.
        remote: URL or folder of the Git repository that the serving side follows.
        environment: overlay whose release.yaml is changed, such as local, staging or production.
        params: section `release_model`.

    Raises:
        ServerError: Triton cannot load it, answers otherwise than promised, or is not installed here (then set
            golden_test to false, and test elsewhere).
        StoreError: the model is not in the store, whole and right.
        SupersededError: another model has been released there in the meantime.
        ReleaseError: Git refuses, or cannot be reached.
    """
    try:
        record = json.loads(published.read_text(encoding="utf-8"))
        if record.get("published") is False:
            write_atomic(release, json.dumps({"released": False, "reason": record["reason"]}, indent=1) + "\n")
            print("not released: it was not published")
            return
        verdict_sha256 = record.pop("verdict_sha256")
        entry = PublishedModel(**record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(f"{published} is not what publish_model writes ({error})") from None
    if params.golden_test:
        with tempfile.TemporaryDirectory(prefix="troika-golden-") as scratch:
            golden = check_published(entry.store, entry.model, entry.digest, Path(scratch), local.verify_key())
        print(f"Triton gives its {golden.images} golden images, ready after {golden.seconds_to_ready:.1f} s")
    made, commit, created = move_pointer(
        remote,
        environment,
        entry,
        verdict_sha256,
        replace=params.replace,
        branch=params.branch,
        attempts=params.attempts,
    )
    write_atomic(release, json.dumps({**made.model_dump(), "commit": commit}, indent=1) + "\n")
    happened = "released" if created else "is already released"
    print(f"{environment}: version {made.version} {happened}, commit {commit[:12]}")


if __name__ == "__main__":
    run_step(release_model)
