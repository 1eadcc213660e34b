"""What a source of images gives: their number, classes and names, and the images block by block."""

import errno
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from troika.datasets.contract import Images, Labels, Origin
from troika.datasets.cores import usable_cores
from troika.datasets.facts import Facts, facts_of
from troika.datasets.problems import Finding
from troika.errors import DatasetError

BLOCK_BYTES = 2 * 2**20
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Block:
    """Some images of a source."""

    images: Images
    """Valid until the source is asked for its next block."""
    labels: Labels
    indices: Labels
    """Positions in the source."""
    facts: Facts
    findings: tuple[Finding, ...] = ()
    """Problems of single images; those that are not to be used are not among `images`."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(width, height) of the files -> how many."""


@dataclass(frozen=True)
class ImageSource:
    """A source that has been opened."""

    origin: Origin
    description: str
    classes: tuple[str, ...]
    count: int
    """Images, bad ones included."""
    shape: tuple[int, int, int]
    blocks: Callable[[Path], Iterator[Block]]
    """Given a folder for what lies there only meanwhile."""
    name_of: Callable[[int], str] = "image {}".format
    given: NDArray[np.int8] | None = None
    """Position in SPLITS of each image, where the source's own splits are used."""
    remarks: tuple[str, ...] = ()
    """What was taken for what."""
    left_out: tuple[str, ...] = ()
    """Names of files and folders that are not counted as images."""
    reopen_in_colour: "Callable[[], ImageSource] | None" = None
    """For a source whose `blocks` may raise ColourFoundError: the same in RGB."""


class ColourFoundError(Exception):
    """A set that looked grey holds an image in colour, so all of it must be read again, in RGB."""


def check_path(parameter: str, text: str) -> None:
    """Look whether a path that a parameter names can be looked at; it need not be there.

    Raises:
        DatasetError: it is a URL, too long, or behind a folder that may not be read.
    """
    shown = sayable(text if len(text) < _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")
    if "://" in text:
        raise DatasetError(f"{parameter}: {shown} is a URL; fetch what it leads to, and give the path of that")
    try:
        os.stat(text)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            return  # a link that leads to nothing
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{parameter}: {shown} cannot be read: {reason}; give another path") from None


_LONGEST_SHOWN = 200


def sayable(name: str) -> str:
    """A name that any file of text can hold: what is not UTF-8 in a file's or class's name is written out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def block_images(shape: tuple[int, ...]) -> int:
    """How many images make a block."""
    return max(1, min(4096, BLOCK_BYTES // max(1, int(np.prod(shape)))))


def examined(pieces: Iterable[tuple[Images, Labels]]) -> Iterator[Block]:
    """Blocks of arrays that are read one after another; threads look at them meanwhile."""

    def numbered() -> Iterator[tuple[int, Images, Labels]]:
        start = 0
        for images, labels in pieces:
            yield start, images, labels
            start += len(images)

    def look(item: tuple[int, Images, Labels]) -> Block:
        start, images, labels = item
        indices = np.arange(start, start + len(images))
        return Block(
            images,
            labels,
            indices,
            facts_of(images),
            (),
            Counter({(images.shape[2], images.shape[1]): len(images)}),
        )

    with threadpool_limits(1), ThreadPoolExecutor(usable_cores()) as pool:
        yield from bounded_map(pool, look, numbered())


def most_on_their_way() -> int:
    """How many items keep all workers busy: one in work and one waiting for each, one with the caller."""
    return 2 * usable_cores() + 1


def bounded_map(
    pool: Executor, work: Callable[[Item], Made], items: Iterable[Item], most: int | None = None
) -> Iterator[Made]:
    """`work` of each item, in order, with at most `most` items on their way; by default `most_on_their_way`."""
    waiting: deque[Future[Made]] = deque()
    most = most or most_on_their_way()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
