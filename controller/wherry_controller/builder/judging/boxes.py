"""Mean average precision of detectors, as COCO counts it.

The mean over classes and over the overlaps 0.50, 0.55 … 0.95 of the precision at 101 recalls
(Lin et al. 2014, "Microsoft COCO"; the order of matching is that of pycocotools, all areas, 100
detections a class and image). Boxes are corners `x1, y1, x2, y2`; a class below 0 is no box.

Units are images, in groups: a group's pull is that of the delete-a-group jackknife (Kott 2001),
because images are matched once and only counted again without the group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.judging.measures import Floats, Measure, Whole
from wherry_controller.core.fault import BuildReason

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
LARGEST_OVERLAP = 1 - 1e-10
DETECTIONS = 100
GROUPS = 50

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Boxes:
    """What a tensor each of boxes `[images, m, 4]`, classes and scores `[images, m]` hold."""

    corners: Floats
    classes: Whole
    scores: Floats


@dataclass(frozen=True, slots=True)
class Matched:
    """One class's detections, the surest first: `hits[overlap, detection]`; boxes an image."""

    images: Whole
    hits: Flags
    there: Whole


def mean_average_precision(found: Boxes, there: Boxes) -> Measure:
    """Return the mean average precision of the boxes that were found for those that are there."""
    images = len(there.classes)
    matched = [_match_class(found, there, c) for c in np.unique(there.classes[there.classes >= 0])]
    if not matched:
        refuse(BuildReason.LABELS_MISFIT, "no image has a labelled box")
    groups = np.arange(images) % min(GROUPS, images)
    without = np.array([_mean_precision(matched, groups != g) for g in np.unique(groups)])
    pulls = (without.mean() - without) * np.sqrt((len(without) - 1) / len(without))
    return Measure(_mean_precision(matched, np.ones(images, np.bool_)), pulls)


def found_boxes(boxes: Array, classes: Array, scores: Array) -> Boxes:
    """Return a detector's outputs as boxes; classes and scores may have a last axis of 1."""
    flat = (len(boxes), boxes.shape[1] if boxes.ndim == 3 else 0)
    if boxes.shape[2:] != (4,) or classes.size != np.prod(flat) or scores.size != np.prod(flat):
        problem = f"boxes {list(boxes.shape)}, classes {list(classes.shape)} and scores"
        refuse(
            BuildReason.LABELS_MISFIT,
            f"{problem} {list(scores.shape)} are not [rows, n, 4] and [rows, n] twice",
        )
    numbers = np.rint(classes.astype(np.float64)).astype(np.int64).reshape(flat)
    return Boxes(boxes.astype(np.float64), numbers, scores.astype(np.float64).reshape(flat))


def labelled_boxes(labels: Tensors) -> Boxes:
    boxes, classes = labels["boxes"], labels["classes"]
    return found_boxes(boxes, classes, np.ones(classes.shape))


def _match_class(found: Boxes, there: Boxes, number: int) -> Matched:
    images, scores, hits = [], [], []
    for image in range(len(there.classes)):
        mine = np.flatnonzero(found.classes[image] == number)
        mine = mine[np.argsort(-found.scores[image][mine], kind="stable")][:DETECTIONS]
        goals = there.corners[image][there.classes[image] == number]
        images.append(np.full(len(mine), image))
        scores.append(found.scores[image][mine])
        hits.append(_match(_overlaps(found.corners[image][mine], goals)))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    counts = np.sum(there.classes == number, axis=1)
    return Matched(np.concatenate(images)[order], np.concatenate(hits, axis=1)[:, order], counts)


def _overlaps(found: Floats, there: Floats) -> Floats:
    """Return the intersection over union, `[found, there]`."""
    low = np.maximum(found[:, None, :2], there[None, :, :2])
    high = np.minimum(found[:, None, 2:], there[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (found, there)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    overlaps: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def _match(overlaps: Floats) -> Flags:
    """Return for each overlap that counts, and each detection in order, whether it hits a box."""
    hits = np.zeros((len(OVERLAPS), len(overlaps)), np.bool_)
    free = np.ones((len(OVERLAPS), overlaps.shape[1]), np.bool_)
    needed = np.minimum(OVERLAPS, LARGEST_OVERLAP)[:, None]
    levels = np.arange(len(OVERLAPS))
    for index, overlap in enumerate(overlaps):
        if overlap.max(initial=0) < needed[0, 0]:
            continue
        open_to = np.where(free & (overlap >= needed), overlap, -1.0)
        best = overlaps.shape[1] - 1 - np.argmax(open_to[:, ::-1], axis=1)
        hits[:, index] = open_to[levels, best] >= 0
        free[levels, best] &= ~hits[:, index]
    return hits


def _mean_precision(matched: list[Matched], images: Flags) -> float:
    """Return the mean over the classes that the images of `images` show."""
    shown = [one for one in matched if one.there[images].any()]
    return float(np.mean([_precision(one, images) for one in shown])) if shown else 0.0


def _precision(one: Matched, images: Flags) -> float:
    hits = one.hits[:, images[one.images]]
    if not hits.shape[1]:
        return 0.0
    right = np.cumsum(hits, axis=1)
    precision = right / np.arange(1, hits.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / one.there[images].sum()
    return float(np.mean([_at_recalls(*level) for level in zip(recall, best, strict=True)]))


def _at_recalls(recall: Floats, precision: Floats) -> float:
    reached = np.searchsorted(recall, RECALLS, "left")
    return float(np.sum(precision[reached[reached < len(precision)]])) / len(RECALLS)
