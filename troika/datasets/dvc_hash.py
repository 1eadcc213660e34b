"""The hash under which DVC knows a dataset folder, whether or not a DVC repository is at hand."""

import tempfile
from pathlib import Path


def dvc_hash(folder: Path) -> str:
    """The `md5` that `dvc.lock` holds for this folder as a stage output, such as `ceccfe...029dd2c5.dir`.

    Computed by DVC's own code, so that a run in a pod, which has no `.git` and no `.dvc`, records the same
    hash as `dvc repro` does on a laptop.
    """
    from dvc_data.hashfile.build import build  # noqa: PLC0415 - slow to import
    from dvc_data.hashfile.db.local import LocalHashFileDB  # noqa: PLC0415
    from dvc_objects.fs.local import LocalFileSystem  # noqa: PLC0415

    file_system = LocalFileSystem()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as scratch:
        database = LocalHashFileDB(file_system, scratch)  # type: ignore[no-untyped-call]
        _, _, tree = build(database, str(folder.resolve()), file_system, "md5", dry_run=True)
    return str(tree.hash_info.value)
