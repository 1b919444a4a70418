"""What was said of a bundle's answers: right classes, or right numbers, and what chance explains.

It is summed as `Feedback` is, without its classes. Numbers of one answer stray together, so that
chance is reckoned as if each answer were one number, which makes it larger than it is.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from wherry.measures import Feedback


def labels_of(feedback: Feedback) -> Feedback:
    """Return the sums of feedback without those of each class, which nobody judges here."""
    return replace(feedback, classes={})


def halved(labels: Feedback) -> Feedback:
    """Return labels that count half as much."""
    return Feedback(
        labels.labelled // 2,
        labels.right // 2,
        values=labels.values // 2,
        absolute_error=labels.absolute_error / 2,
        squared_error=labels.squared_error / 2,
        answers=labels.answers // 2,
    )


def accuracy(labels: Feedback) -> float:
    return labels.right / labels.labelled


def mean_error(labels: Feedback) -> float:
    """Return the mean absolute error of numbers."""
    return labels.absolute_error / labels.values


def stray_of_accuracies(ours: Feedback, theirs: Feedback) -> float:
    """Return the standard error of the difference of accuracies, were both the same (pooled)."""
    pooled = accuracy(ours + theirs)
    return math.sqrt(pooled * (1 - pooled) * (1 / ours.labelled + 1 / theirs.labelled))


def stray_of_errors(ours: Feedback, theirs: Feedback) -> float:
    """Return the standard error of the difference of mean errors (Welch's)."""
    return math.sqrt(_variance(ours) / ours.answers + _variance(theirs) / theirs.answers)


def _variance(labels: Feedback) -> float:
    """Return how absolute errors stray, at most, from answer to answer."""
    mean = mean_error(labels)
    return max(0.0, labels.squared_error / labels.values - mean * mean)
