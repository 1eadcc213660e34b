"""A folder of image files, decoded by all cores. How it may be laid out is layout.py's."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from troika.datasets.contract import Labels, Origin
from troika.datasets.cores import usable_cores
from troika.datasets.decoding import Decoded, Form, decode_files, size_of
from troika.datasets.problems import Finding, Policies
from troika.datasets.sources.layout import Layout, read_layout
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.slots import Slots, open_slots
from troika.datasets.sources.source import (
    Block,
    ColourFoundError,
    ImageSource,
    block_images,
    bounded_map,
    most_on_their_way,
    sayable,
)
from troika.datasets.sources.tree import Tree
from troika.errors import DatasetError, ParameterError

_INLINE_FILES = 512
"""Up to so many files, starting worker processes would cost more than they save."""
_MOST_FILES_IN_BLOCK = 256
_MOST_SLOT_BYTES = 2**29
_LOOKED_AT = 16


def open_folder(params: SourceParams) -> ImageSource:
    """Open a folder; sizes and colour are taken from a look at some headers.

    Raises:
        ParameterError: no path is given.
        DatasetError: it is no folder, holds no image, or images both in it and in sub-folders.
    """
    if not params.path:
        raise ParameterError("path: source folder needs the path of a folder of images")
    root = Path(params.path)
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; path must name a folder of images")
    layout = read_layout(Tree(root, follow_outside=params.policies.outside_link == "warn"), params.splits)
    usable = [layout.names[index] for index in _usable(layout, params.policies)]
    if not usable:
        note = layout.notes[0]
        raise DatasetError(
            f"{note.problem}: {root / sayable(layout.names[0])}, as all {len(layout.names)} files, is "
            f"{note.detail}; set policies.outside_link to warn to follow links"
        )
    form = _form(params, root, usable)
    splits = ", its own splits" if layout.splits else ""
    return ImageSource(
        origin=Origin(kind="folder", path=sayable(root.resolve().name)),
        description=f"folder {sayable(root.resolve().name)}{splits}",
        classes=layout.classes,
        count=len(layout.names),
        shape=(form.size[1], form.size[0], form.channels),
        blocks=lambda scratch: _blocks(root, layout, form, scratch),
        name_of=lambda index: sayable(layout.names[index]),
        given=layout.given,
        remarks=tuple(layout.remarks),
        left_out=tuple(map(sayable, layout.left_out)),
        reopen_in_colour=lambda: open_folder(params.model_copy(update={"colour": "rgb"})),
    )


def _form(params: SourceParams, root: Path, names: Sequence[str]) -> Form:
    if params.image_size:
        size = (params.image_size, params.image_size)
    else:
        found = (size_of(str(root / name), params.max_pixels) for name in names)
        first = next((header for header in found if header is not None), None)
        if first is None:
            note = decode_files(
                [str(root / names[0])], Form((1, 1), True, 3, True, params.max_pixels, params.policies)
            ).notes[0]
            raise DatasetError(
                f"{root} holds no readable image: none of its {len(names)} files is one; the first, "
                f"{sayable(names[0])}, is {note.problem}: {note.detail}"
            )
        size = first
    grey = Form(size, bool(params.image_size), 1, params.colour == "grey", params.max_pixels, params.policies)
    if params.colour == "grey":
        return grey
    in_colour = replace(grey, channels=3)
    if params.colour == "rgb":
        return in_colour
    # A look at some; if only others are in colour, reading stops there and begins again.
    spread = [
        str(root / names[i]) for i in np.linspace(0, len(names) - 1, min(_LOOKED_AT, len(names))).astype(int)
    ]
    return in_colour if decode_files(spread, grey).colour else grey


def _usable(layout: Layout, policies: Policies) -> Labels:
    """Positions of the files that are read."""
    barred = {
        index
        for index, note in layout.notes.items()
        if not note.followed or getattr(policies, note.problem) != "warn"
    }
    return np.array([index for index in range(len(layout.names)) if index not in barred], np.int64)


def _blocks(root: Path, layout: Layout, form: Form, scratch: Path) -> Iterator[Block]:
    names, labels, classes = layout.names, layout.label_array, layout.classes
    noted = [
        Finding(index, sayable(names[index]), classes[labels[index]], note.problem, note.detail)
        for index, note in sorted(layout.notes.items())
    ]
    usable = _usable(layout, form.policies)
    shape = (form.size[1], form.size[0], form.channels)
    step = min(_MOST_FILES_IN_BLOCK, block_images(shape))
    pieces = [usable[start : start + step] for start in range(0, len(usable), step)]
    if noted:
        empty = decode_files([], form)
        yield Block(empty.images, labels[:0], usable[:0], empty.facts, tuple(noted))
    if len(usable) <= _INLINE_FILES or usable_cores() == 1:
        for piece in pieces:
            decoded = decode_files(_paths(str(root), [names[i] for i in piece]), form)
            yield _block(decoded, piece, names, labels, classes)
        return
    # A slot for each piece on its way, as long as they do not take too much.
    most = min(most_on_their_way(), len(pieces), max(2, _MOST_SLOT_BYTES // (step * int(np.prod(shape)))))
    finished = 0
    try:
        with open_slots(scratch, most, step, shape) as slots, _workers(usable_cores()) as pool:
            numbered = enumerate([names[i] for i in piece] for piece in pieces)
            done = bounded_map(pool, partial(_decode_piece, str(root), form, slots), numbered, most)
            for number, (piece, decoded) in enumerate(zip(pieces, done, strict=True)):
                images = slots[number][: len(decoded.positions)]
                finished = number + 1
                yield _block(replace(decoded, images=images), piece, names, labels, classes)
    except BrokenProcessPool:
        begun = [names[index] for piece in pieces[finished : finished + most] for index in piece]
        deadly = _find_deadly(str(root), form, begun, scratch)
        cause = f" by {sayable(deadly)}; take it out" if deadly else "; is there too little memory?"
        raise DatasetError(f"a process that decodes images of {root} was ended from outside{cause}") from None


def _workers(count: int) -> ProcessPoolExecutor:
    """Return processes that decode: all the threads that there should be, as others would spin beside them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(count, mp_context=context, initializer=threadpool_limits, initargs=(1,))


def _find_deadly(root: str, form: Form, names: Sequence[str], scratch: Path) -> str | None:
    """Return the file that ends a process which decodes it alone; None if there is none such."""
    shape = (form.size[1], form.size[0], form.channels)
    with open_slots(scratch, 1, 1, shape) as slots, _workers(1) as pool:
        for name in names:
            try:
                pool.submit(_decode_piece, root, form, slots, (0, [name])).result()
            except BrokenProcessPool:
                return name
    return None


def _decode_piece(root: str, form: Form, slots: Slots, piece: tuple[int, list[str]]) -> Decoded:
    """In a worker process: the pixels stay in the slot of this piece's number, only the rest is handed back."""
    number, names = piece
    decoded = decode_files(_paths(root, names), form, slots[number])
    return replace(decoded, images=decoded.images[:0])


def _paths(root: str, names: Sequence[str]) -> list[str]:
    return [os.path.join(root, name) for name in names]  # noqa: PTH118 - faster


def _block(decoded: Decoded, piece: Labels, names: Sequence[str], labels: Labels, classes: Sequence[str]) -> Block:
    if decoded.colour:
        raise ColourFoundError
    indices = piece[decoded.positions]
    findings = []
    for note in decoded.notes:
        index = int(piece[note.position])
        findings.append(Finding(index, sayable(names[index]), classes[labels[index]], note.problem, note.detail))
    return Block(decoded.images, labels[indices], indices, decoded.facts, tuple(findings), Counter(decoded.sizes))
