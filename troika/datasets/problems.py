"""What can be wrong with images, what is done about each kind, and the list of what was found."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from troika.errors import DatasetError
from troika.params import Params

Policy = Literal["fail", "quarantine", "warn"]
FailOrQuarantine = Literal["fail", "quarantine"]
FailOrWarn = Literal["fail", "warn"]

_MOST_WARNINGS = 100
"""Warnings of one kind that are kept one by one; beyond, they are counted."""


class Policies(Params):
    """Problem -> `fail` (the step stops), `quarantine` (the image is left out and listed) or `warn` (it is used,
    after the repair that is named here, and told).

    Where an image cannot be used at all, there is no `warn`; where the set as a whole is wrong, no `quarantine`.
    """

    unreadable: FailOrQuarantine
    """No image, one that is damaged, or one that any exception was raised for; the detail names it."""
    truncated: FailOrQuarantine
    """The file ends too early, or pixels are missing though it has an end."""
    empty_file: FailOrQuarantine
    """A file of no bytes."""
    oversized: FailOrQuarantine
    """More pixels than `max_pixels`: perhaps a decompression bomb. It is not decoded."""
    outside_link: Policy
    """A link to a file outside the folder. Warn: it is followed, as DVC's links into its cache must be."""
    other_size: FailOrQuarantine
    """Not of the size of the first image, and `image_size` does not say what to bring all to."""
    too_small: Policy
    """Smaller than `image_size`. Warn: it is enlarged."""
    animated: Policy
    """Pictures shown one after another. Warn: the first is taken. Of the pictures that a phone writes beside one
    another (MPO) the first is taken anyway."""
    sixteen_bit: Policy
    """16 bits or floats for a channel. Warn: scaled down to 8 bits."""
    cmyk: Policy
    """Warn: converted without a colour profile; colours come out wrong."""
    transparent: Policy
    """Some pixel is not opaque. Warn: laid on white."""
    palette: Policy
    """Warn: converted to grey or RGB, which is exact."""
    exif_rotated: Policy
    """The camera was held another way. Warn: turned upright, by the orientation number alone."""
    constant: Policy
    """All pixels are alike."""
    duplicate: Policy
    """The same pixels as another image; the first is kept."""
    contradictory_labels: Policy
    """Exactly the same pixels under several labels; none is kept."""
    near_duplicate: Policy
    """Almost the same picture as another one of the same class and split; one is kept."""
    leakage: Policy
    """Almost the same picture as one of the same class on another side of the split. Held-out images are kept:
    test before validation before train."""
    empty_class: FailOrWarn
    """A class without an image. Warn: it is left out, and labels are numbered anew."""
    class_imbalance: FailOrWarn
    """The largest class has more than `max_class_ratio` times the images of the smallest."""
    value_range: FailOrWarn
    """The values of all images together fill less than an eighth of 0..255: perhaps scaled for something else."""


@dataclass(frozen=True)
class Finding:
    """One problem of one image."""

    index: int
    """Position in the source; for a folder, in the sorted list of its files."""
    name: str
    """File name within the folder, or `image <index>`."""
    label: str
    """Name of its class."""
    problem: str
    detail: str


@dataclass
class Findings:
    """All that was found in one source, under its policies."""

    policies: Policies
    quarantined: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    warning_counts: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    """What is wrong with the set as a whole."""
    notes: list[str] = field(default_factory=list)
    """What was taken for what."""
    left_out: list[str] = field(default_factory=list)
    """Files that were not counted as images."""

    def add(self, finding: Finding) -> None:
        """Take note of a problem of one image.

        Raises:
            DatasetError: its policy is `fail`.
        """
        policy = getattr(self.policies, finding.problem)
        if policy == "fail":
            raise DatasetError(
                f"{finding.name}: {finding.problem}: {finding.detail}; "
                f"mend it, or change policies.{finding.problem} from fail"
            )
        if policy == "quarantine":
            self.quarantined.append(finding)
            return
        self.warning_counts[finding.problem] += 1
        if self.warning_counts[finding.problem] <= _MOST_WARNINGS:
            self.warnings.append(finding)

    def add_of_set(self, problem: str, detail: str) -> None:
        """Take note of a problem of the whole set.

        Raises:
            DatasetError: its policy is `fail`.
        """
        if getattr(self.policies, problem) == "fail":
            raise DatasetError(f"{problem}: {detail}; mend it, or set policies.{problem} to warn")
        self.remarks.append(f"{problem}: {detail}")

    def quarantines(self, problem: str) -> bool:
        """Whether images with this problem are left out."""
        return bool(getattr(self.policies, problem) == "quarantine")

    def check_share(self, total: int, most: float, listed_in: Callable[[], object]) -> None:
        """Raise DatasetError if more than the share `most` of `total` images is quarantined."""
        left_out = sorted(self.quarantined, key=lambda entry: entry.index)
        if not left_out or len(left_out) <= most * total:
            return
        first = left_out[0]
        raise DatasetError(
            f"{len(left_out)} of {total} images are unusable ({len(left_out) / total:.1%}), more than "
            f"max_refused_share = {most:.1%} allows; the first: {first.name}, {first.problem} ({first.detail}); "
            f"all are listed in {listed_in()}"
        )

    def as_data(self, total: int) -> dict[str, Any]:
        """Plain data for refused.json."""
        return {
            "images": total,
            "quarantined": [asdict(entry) for entry in sorted(self.quarantined, key=lambda entry: entry.index)],
            "warnings": [asdict(entry) for entry in self.warnings],
            "warning_counts": dict(sorted(self.warning_counts.items())),
            "remarks": [*self.notes, *self.remarks],
            "left_out": self.left_out,
        }
