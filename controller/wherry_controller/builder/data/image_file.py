"""Rows from a `.zip` of image folders: a folder is a label, an image in it a row.

An image of another size than the signature's is refused and not resized: how to resize is part of
the preparation that the net was trained with. Nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from wherry.signature import Datatype, Tensor
from wherry_controller.builder.data.labels import class_number, classes_of
from wherry_controller.builder.data.rows import NUMPY, Array, Tensors, rows_a_part
from wherry_controller.builder.data.wanted import Purpose
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.card import Card, MetricName, Normalisation
from wherry_controller.core.fault import BuildReason

FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
LARGEST_MEMBER_BYTES = 64 * 1024 * 1024
LARGEST_PIXELS = 64 * 1024 * 1024
MOST_MEMBERS = 2_000_000
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
PLAIN = Normalisation()


def image_parts(file: Path, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    tensor = _the_input(file.name, card)
    with zipfile.ZipFile(file) as archive:
        images = _images(file.name, archive)
        numbers = _numbers(card, file.name, images) if purpose is Purpose.JUDGE else None
        start = 0
        while start < len(images):
            first = _pixels(file.name, archive, images[start], tensor, card.data.images)
            stop = start + rows_a_part(first.nbytes)
            rest = (
                _pixels(file.name, archive, member, tensor, card.data.images)
                for member in images[start + 1 : stop]
            )
            part = {tensor.name: _stacked(file.name, [first, *rest])}
            if numbers is not None:
                part[card.data.label] = np.array(numbers[start:stop], np.int64)
            yield part
            start = stop


def _the_input(file: str, card: Card) -> Tensor:
    """Return the one input that images fill."""
    tensor = card.signature.inputs[0]
    if len(card.signature.inputs) != 1 or tensor.layout not in ("NCHW", "NHWC"):
        problem = f"{file} has images, which fill a single input whose layout is NCHW or NHWC"
        refuse(BuildReason.MALFORMED_DATA, problem)
    if tensor.shape[tensor.layout.index("C")] not in MODES:
        problem = f"{tensor.name!r} needs 1, 3 or 4 channels to be filled with the images of {file}"
        refuse(BuildReason.MALFORMED_DATA, problem)
    floating = NUMPY[tensor.datatype].kind == "f"
    if not floating and tensor.datatype is not Datatype.UINT8:
        problem = f"images of {file} fill floating inputs and UINT8, not {tensor.datatype.value}"
        refuse(BuildReason.MALFORMED_DATA, problem)
    if not floating and card.data.images != PLAIN:
        problem = f"{tensor.name!r} takes pixels as they are, and model.toml normalises them"
        refuse(BuildReason.MALFORMED_DATA, problem)
    return tensor


def _images(file: str, archive: zipfile.ZipFile) -> list[str]:
    names = archive.namelist()
    if len(names) > MOST_MEMBERS or len(set(names)) != len(names):
        refuse(BuildReason.MALFORMED_DATA, f"{file} has too many members, or one twice")
    images = sorted(name for name in names if not name.endswith("/") and not _is_hidden(name))
    if not images:
        refuse(BuildReason.MALFORMED_DATA, f"{file} has no images")
    return images


def _is_hidden(name: str) -> bool:
    """Say whether a member is what a file manager left behind."""
    path = PurePosixPath(name)
    return path.name == "Thumbs.db" or any(
        part.startswith(".") or part == "__MACOSX" for part in path.parts
    )


def _numbers(card: Card, file: str, images: Sequence[str]) -> list[int]:
    """Return the class number of each image, by its folder.

    Folders are labels of the card; without labels there, they are numbers if all of them are, and
    else count in sorted order, which takes a folder for every class.
    """
    if card.task.class_output is None and card.task.metric is not MetricName.AUC:
        problem = f"the folders of {file} are classes, and {card.task.metric.value} wants others"
        refuse(BuildReason.LABELS_MISFIT, problem)
    folders = [PurePosixPath(image).parent.name for image in images]
    if "" in folders:
        image = images[folders.index("")]
        refuse(BuildReason.LABELS_MISFIT, f"{image!r} of {file} lies in no folder, so has no label")
    known = sorted(set(folders))
    if card.labels or all(folder.isdecimal() for folder in known):
        numbers = {name: class_number(card, f"a folder of {file}", name) for name in known}
    else:
        _refuse_incomplete(card, file, known)
        numbers = {name: number for number, name in enumerate(known)}
    return [numbers[folder] for folder in folders]


def _refuse_incomplete(card: Card, file: str, folders: Sequence[str]) -> None:
    classes = 2 if card.task.metric is MetricName.AUC else classes_of(card)
    if classes != len(folders):
        problem = (
            f"{file} has {len(folders)} folders for {classes} classes, and model.toml no labels"
        )
        refuse(BuildReason.LABELS_MISFIT, problem)


def _pixels(
    file: str, archive: zipfile.ZipFile, name: str, tensor: Tensor, images: Normalisation
) -> Array:
    """Return one image as the row of an input."""
    what = f"{name!r} of {file}"
    with refusing(BuildReason.MALFORMED_DATA, f"{what} is no whole {', '.join(FORMATS)} image"):
        data = _member(what, archive, name)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_other_size(what, tensor, image)
            channels = tensor.shape[tensor.layout.index("C")]
            pixels = _in_channels(what, image, channels)
    values = _normalised(what, pixels, images, NUMPY[tensor.datatype])
    return values if tensor.layout == "NHWC" else np.moveaxis(values, -1, 0)


def _member(what: str, archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as stream:
        data = stream.read(LARGEST_MEMBER_BYTES + 1)
    if len(data) > LARGEST_MEMBER_BYTES:
        problem = f"{what} has more than {LARGEST_MEMBER_BYTES} bytes; save it smaller"
        refuse(BuildReason.MALFORMED_DATA, problem)
    return data


def _refuse_other_size(what: str, tensor: Tensor, image: Image.Image) -> None:
    """Refuse before a pixel is decoded, so that no image unpacks to more than is wanted."""
    width, height = image.size
    want = (tensor.shape[tensor.layout.index("W")], tensor.shape[tensor.layout.index("H")])
    strays = any(
        isinstance(axis, int) and axis != length
        for axis, length in zip(want, image.size, strict=True)
    )
    if strays or width * height > LARGEST_PIXELS:
        problem = f"{what} is {width} by {height} pixels, not {want[0]} by {want[1]}; resize it"
        refuse(BuildReason.MALFORMED_DATA, problem)


def _in_channels(what: str, image: Image.Image, channels: int | str) -> Array:
    """Return [height, width, channels] of bytes; refuses to drop colours or transparency."""
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA") or _is_transparent(image, channels):
        problem = f"{what} is of mode {image.mode}, not plainly {channels} channels of 8 bits"
        refuse(BuildReason.MALFORMED_DATA, problem)
    mode = next(mode for known, mode in MODES.items() if known == channels)
    if mode != "L":
        return np.asarray(image.convert(mode))
    colours = np.asarray(image.convert("RGB"))
    if (colours != colours[..., :1]).any():
        problem = f"{what} is coloured and the input has one channel; save it in grey"
        refuse(BuildReason.MALFORMED_DATA, problem)
    return colours[..., :1]


def _is_transparent(image: Image.Image, channels: int | str) -> bool:
    return channels != 4 and image.has_transparency_data


def _normalised(
    what: str, pixels: Array, images: Normalisation, dtype: np.dtype[np.generic]
) -> Array:
    if dtype.kind != "f":
        return pixels
    values = np.multiply(pixels, images.scale, dtype=np.float32)
    channels = pixels.shape[-1]
    for given in (images.mean, images.deviation):
        if len(given) not in (0, 1, channels):
            problem = (
                f"[data.images] has {len(given)} numbers for the {channels} channels of {what}"
            )
            refuse(BuildReason.MALFORMED_DATA, problem)
    if images.mean:
        values -= np.array(images.mean, np.float32)
    if images.deviation:
        values /= np.array(images.deviation, np.float32)
    return values.astype(dtype)


def _stacked(file: str, rows: Sequence[Array]) -> Array:
    if len({row.shape for row in rows}) > 1:
        refuse(BuildReason.MALFORMED_DATA, f"the images of {file} differ in size; resize them")
    return np.stack(rows)
