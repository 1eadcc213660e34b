"""What a source is told: where it lies, and how image files become images of one form."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from troika.datasets.problems import Policies
from troika.params import Params


class DvcParams(Params):
    """A Git repository that DVC tracks the data in; `path` is the path inside it."""

    repo: str
    """URL or folder; empty: the data lies in the file system."""
    rev: str
    """Tag, branch or commit."""


class SourceParams(Params):
    """The part of section `prepare_data` that sources read."""

    source: str
    path: str
    dvc: DvcParams
    splits: Literal["auto", "given", "hashed", "classes"]
    """By hash, or those of the source's train, validation and test folders; auto: given where folders give them.
    Classes: folders with such names are classes."""
    transpose: bool
    """Of IDX files: images are stored with rows and columns exchanged, as EMNIST's are."""
    image_size: int = Field(ge=0, le=4096)
    """Side in pixels that image files are cut square and scaled to; 0: all have one size already."""
    colour: Literal["auto", "grey", "rgb"]
    """Of image files; auto: RGB as soon as one of them is in colour."""
    max_pixels: int = Field(gt=0, le=89_478_485)
    """Most pixels of one image file; Pillow's own limit is the largest value."""
    policies: Policies

    def at(self, path: Path) -> "SourceParams":
        """The same for data that has been fetched to `path`."""
        return self.model_copy(update={"path": str(path), "dvc": DvcParams(repo="", rev="")})
