"""Tests of rows from a `.zip` of image folders: exact sizes, plain channels, folders as labels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import a_signature
from tests.controller.builder.data.cards import (
    Array,
    a_card,
    an_image,
    everything,
    in_order,
    read,
    refused,
)
from wherry.signature import Datatype
from wherry_controller.core.card import Card, Data, MetricName, Normalisation, Task
from wherry_controller.core.fault import BuildReason

ANIMALS = ("cat", "dog", "ant")
PIXELS = np.random.default_rng(1).integers(0, 256, (90, 4, 6, 3)).astype(np.uint8)


def png(pixels: Array, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "rows.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def images(pixels: Array = PIXELS, folders: tuple[str, ...] = ANIMALS) -> dict[str, bytes]:
    return {f"set/{folders[at % 3]}/{at:03}.png": png(image) for at, image in enumerate(pixels)}


def a_picture_card(
    *shape: int | str,
    layout: str = "NHWC",
    datatype: Datatype = Datatype.FP32,
    labels: tuple[str, ...] = ANIMALS,
    normalisation: Normalisation | None = None,
    task: Task | None = None,
) -> Card:
    return a_card(
        Data(evaluation="rows.zip", images=normalisation or Normalisation()),
        signature=a_signature(
            inputs=(an_image(*(shape or (4, 6, 3)), layout=layout, datatype=datatype),)
        ),
        labels=labels,
        task=task,
    )


def labels_by_row(card: Card, folder: Path) -> dict[bytes, int]:
    final = read(card, folder).final
    rows = zip(final.inputs["image"], final.labels["labels"], strict=True)
    return {row.tobytes(): int(label) for row, label in rows}


def test_pixels_are_bytes_or_normalised_a_channel(tmp_path: Path) -> None:
    write(tmp_path, {**images(), "__MACOSX/set/._000.png": b"", "set/.DS_Store": b""})
    plain = read(a_picture_card(datatype=Datatype.UINT8), tmp_path)
    assert np.array_equal(everything(plain), in_order(PIXELS))
    usual = Normalisation(mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.2, 0.1))
    found = everything(read(a_picture_card(normalisation=usual), tmp_path))
    wanted = (PIXELS / 255 - usual.mean) / usual.deviation
    assert np.allclose(found, in_order(wanted), atol=1e-5)


def test_the_layout_says_where_the_channels_stand(tmp_path: Path) -> None:
    write(tmp_path, images())
    card = a_picture_card(3, 4, 6, layout="NCHW", datatype=Datatype.UINT8)
    assert np.array_equal(everything(read(card, tmp_path)), in_order(np.moveaxis(PIXELS, -1, 1)))


def test_folders_are_labels_of_the_card(tmp_path: Path) -> None:
    write(tmp_path, images())
    found = labels_by_row(a_picture_card(datatype=Datatype.UINT8), tmp_path)
    assert all(found.get(row.tobytes(), at % 3) == at % 3 for at, row in enumerate(PIXELS))


def test_without_labels_folders_count_in_order_or_are_numbers(tmp_path: Path) -> None:
    card = a_picture_card(datatype=Datatype.UINT8, labels=())
    for folders, numbers in ((ANIMALS, (1, 2, 0)), (("2", "00", "1"), (2, 0, 1))):
        write(tmp_path, images(folders=folders))
        found = labels_by_row(card, tmp_path)
        wanted = {row.tobytes(): numbers[at % 3] for at, row in enumerate(PIXELS)}
        assert all(wanted[row] == label for row, label in found.items())


def test_grey_images_fill_one_channel_and_three(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    write(tmp_path, images(grey))
    one = read(a_picture_card(4, 6, 1, datatype=Datatype.UINT8), tmp_path)
    assert np.array_equal(everything(one), in_order(grey[..., None]))
    three = read(a_picture_card(datatype=Datatype.UINT8), tmp_path)
    assert np.array_equal(everything(three), in_order(np.repeat(grey[..., None], 3, axis=-1)))


def test_an_image_that_would_have_to_change_is_refused_by_name(tmp_path: Path) -> None:
    clear = np.concatenate([PIXELS[0], np.full((4, 6, 1), 7, np.uint8)], axis=-1)
    deep = np.full((4, 6), 3000, np.uint16)
    for odd, words in (
        (png(PIXELS[0][:, :5]), "is 5 by 4 pixels, not 6 by 4"),
        (png(clear), "is of mode RGBA"),
        (png(deep), "is of mode I;16"),
        (png(PIXELS[0])[:60], "is no whole BMP, JPEG, PNG, WEBP image"),
        (b"GIF89a", "is no whole BMP, JPEG, PNG, WEBP image"),
    ):
        write(tmp_path, {**images(), "set/cat/odd.png": odd})
        refused(a_picture_card(), tmp_path, BuildReason.MALFORMED_DATA, "'set/cat/odd.png'", words)


def test_a_coloured_image_fills_no_grey_input(tmp_path: Path) -> None:
    write(tmp_path, images())
    card = a_picture_card(4, 6, 1)
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "'set/ant/002.png'", "coloured")


def test_an_image_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("1", (40_000, 2_000)).save(stream, "PNG")
    write(tmp_path, {"cat/bomb.png": stream.getvalue()})
    card = a_picture_card("height", "width", 3)
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "bomb.png", "40000 by 2000 pixels")


def test_images_of_free_size_must_be_alike(tmp_path: Path) -> None:
    write(tmp_path, {**images(), "set/cat/odd.png": png(PIXELS[0][:3])})
    card = a_picture_card("height", "width", 3)
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "differ in size")


def test_folders_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    for members, labels, words in (
        (images(folders=("cat", "dog", "cow")), ANIMALS, "'cow'"),
        (images(folders=("cat", "dog", "dog")), (), "2 folders for 3 classes"),
        ({**images(), "odd.png": png(PIXELS[0])}, ANIMALS, "lies in no folder"),
    ):
        write(tmp_path, members)
        refused(a_picture_card(labels=labels), tmp_path, BuildReason.LABELS_MISFIT, words)
    write(tmp_path, images())
    values = Task(output="scores", metric=MetricName.MAE)
    refused(a_picture_card(task=values), tmp_path, BuildReason.LABELS_MISFIT, "are classes")


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (a_picture_card(layout=""), "layout is NCHW or NHWC"),
        (a_picture_card(4, 6, 2), "1, 3 or 4 channels"),
        (a_picture_card(datatype=Datatype.INT64), "not INT64"),
        (
            a_picture_card(datatype=Datatype.UINT8, normalisation=Normalisation(mean=(0.5,))),
            "takes pixels as they are",
        ),
        (a_picture_card(normalisation=Normalisation(mean=(0.5, 0.5))), "has 2 numbers for the 3"),
    ],
)
def test_an_input_that_is_no_picture_is_refused(tmp_path: Path, card: Card, words: str) -> None:
    write(tmp_path, images())
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, words)


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"cat/": b""})
    refused(a_picture_card(), tmp_path, BuildReason.MALFORMED_DATA, "rows.zip has no images")
