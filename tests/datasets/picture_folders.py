"""Folders of small pictures, of each of which is known where it went."""

import zlib
from pathlib import Path
from typing import Any

from PIL import Image
from raw_images import Made, prepare, random_images

from troika.datasets.contract import SPLITS


class Pictures:
    """Writes different pictures; knows where each went."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[bytes, str] = {}
        self._images = iter(random_images(2000, size=(6, 6), seed=zlib.crc32(root.name.encode())))

    def write(self, folder: str, count: int = 40) -> "Pictures":
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            self.put(f"{folder}/{number:03}.png" if folder else f"{number:03}.png")
        return self

    def put(self, name: str) -> Path:
        image, path = next(self._images), self.root / name
        Image.fromarray(image[..., 0]).save(path, "PNG")
        self.names[image.tobytes()] = name
        return path

    def where(self, made: Made) -> dict[str, tuple[str, str]]:
        """File -> (class, split) in the dataset."""
        data = made.dataset
        return {
            self.names[image.tobytes()]: (data.info.classes[label], split)
            for split in SPLITS
            for image, label in zip(data.splits[split].images, data.splits[split].labels, strict=True)
        }


def run(pictures: Pictures, **changes: Any) -> Made:
    return prepare(pictures.root.parent / "out", pictures.root, **changes)


def remarks(made: Made) -> str:
    return "\n".join(made.refused["remarks"])
