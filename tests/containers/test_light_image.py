"""The light image: what it must have for its steps and the canary's guard, and what it must not.

That the steps run in it, the golden test on its Triton included, is shown with the whole pipeline in
test_train_image.py.
"""

import json

import pytest
from containers_engine import run

pytestmark = pytest.mark.containers
HARDENED = (
    "--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001",
    "--network=none", "--tmpfs=/tmp:mode=1777",
)  # fmt: skip
PROGRAMS = ["git", "ssh", "python"]
HEAVY = (
    "torch", "tensorflow", "scipy", "sklearn", "dvc", "onnx", "kubernetes", "troika.models", "troika.quality",
    "troika.datasets", "pipelines", "components.train",
)  # fmt: skip


def test_it_is_small_and_labelled_and_has_no_tools_to_build_with(host: str, light_image: str) -> None:
    facts = json.loads(run(host, "image", "inspect", light_image).stdout)[0]
    assert facts["Size"] < 0.6e9
    assert facts["Config"]["User"] == "10001:10001"
    assert len(facts["Config"]["Labels"]["org.opencontainers.image.revision"]) == 40
    script = "command -v gcc make uv pip strip; ls -d /var/lib/apt/lists/* /root/.cache /tools 2>/dev/null; true"
    assert run(host, "run", *HARDENED, light_image, "sh", "-c", script).stdout.split() == []


def test_it_holds_git_with_ssh_and_no_framework(host: str, light_image: str) -> None:
    code = (
        "import importlib.util as u, json, shutil;"
        f"print(json.dumps([[n for n in {HEAVY} if u.find_spec(n)], [n for n in {PROGRAMS} if shutil.which(n)]]))"
    )
    done = run(host, "run", *HARDENED, light_image, "python", "-c", code)
    assert json.loads(done.stdout) == [[], PROGRAMS]


@pytest.mark.parametrize("module", ["components.publish_model", "troika.releases.canary_guard"])
def test_its_programs_start_and_say_what_they_lack_in_one_line(host: str, light_image: str, module: str) -> None:
    given = {
        "components.publish_model": "--bundle b --verdict v --reference r --published p --store file:///tmp/s",
        "troika.releases.canary_guard": "--remote /tmp/r --to production --account /tmp/none",
    }[module]
    done = run(host, "run", *HARDENED, light_image, "python", "-m", module, *given.split(), check=False)
    said = (done.stdout + done.stderr).strip().splitlines()
    assert (done.returncode, len(said), said[-1].startswith("error: ")) == (1, 1, True), said


def test_every_kind_of_store_can_be_opened(host: str, light_image: str) -> None:
    """Of what the libraries hold only the unread has been left out."""
    code = (
        "import botocore.session as b, gcsfs, s3fs, model_signing, numpy.linalg, onnxruntime, PIL.Image;"
        "s = b.get_session(); [s.create_client(n, region_name='eu-west-1') for n in ('s3', 'sts', 'sso')]"
    )
    run(host, "run", *HARDENED, light_image, "python", "-c", code)
