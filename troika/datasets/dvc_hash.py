"""The hash under which DVC knows a dataset folder, whether or not a DVC repository is at hand."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from troika.datasets.cores import usable_cores


def dvc_hash(folder: Path) -> str:
    """The `md5` that `dvc.lock` holds for this folder as a stage output, such as `ceccfe...029dd2c5.dir`.

    Computed by DVC's own code, so that a run in a pod, which has no `.git` and no `.dvc`, records the same
    hash as `dvc repro` does on a laptop; but the files of all splits at once, where DVC takes folder by folder.

    Raises:
        OSError: there is no such folder, or something in it cannot be read.
    """
    from dvc_data.hashfile.hash import hash_file  # noqa: PLC0415 - slow to import
    from dvc_data.hashfile.tree import Tree  # noqa: PLC0415
    from dvc_objects.fs.local import LocalFileSystem  # noqa: PLC0415

    file_system = LocalFileSystem()  # type: ignore[no-untyped-call]
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    tree = Tree()  # type: ignore[no-untyped-call]
    with ThreadPoolExecutor(usable_cores()) as pool:
        hashes = pool.map(lambda path: hash_file(str(path), file_system, "md5"), files)
        for path, (about, found) in zip(files, hashes, strict=True):
            tree.add(path.relative_to(folder).parts, about, found)
    tree.digest()
    return str(tree.hash_info.value)
