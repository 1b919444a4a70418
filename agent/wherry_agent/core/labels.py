"""What was said of a bundle's answers: right classes, or right numbers, and what chance explains.

Numbers of one answer stray together, so that chance is reckoned as if each answer were one number,
which makes it larger than it is.
"""

from __future__ import annotations

import math

import msgspec

from wherry.measures import Feedback


class Labels(msgspec.Struct, frozen=True):
    """How many answers were labelled, how many of them were right; or how far off numbers were.

    The errors are sums over `values` numbers of `answers` answers.
    """

    labelled: int = 0
    right: int = 0
    answers: int = 0
    values: int = 0
    absolute_error: float = 0.0
    squared_error: float = 0.0

    def __add__(self, more: Labels) -> Labels:
        return Labels(
            self.labelled + more.labelled,
            self.right + more.right,
            self.answers + more.answers,
            self.values + more.values,
            self.absolute_error + more.absolute_error,
            self.squared_error + more.squared_error,
        )

    def halved(self) -> Labels:
        """Return labels that count half as much."""
        return Labels(
            self.labelled // 2,
            self.right // 2,
            self.answers // 2,
            self.values // 2,
            self.absolute_error / 2,
            self.squared_error / 2,
        )

    @property
    def accuracy(self) -> float:
        return self.right / self.labelled

    @property
    def mean_error(self) -> float:
        return self.absolute_error / self.values

    @property
    def error_variance(self) -> float:
        """How absolute errors stray, at most, from answer to answer (their variance)."""
        return max(0.0, self.squared_error / self.values - self.mean_error * self.mean_error)


def labels_of(feedback: Feedback) -> Labels:
    return Labels(
        feedback.labelled,
        feedback.right,
        feedback.answers,
        feedback.values,
        feedback.absolute_error,
        feedback.squared_error,
    )


def stray_of_accuracies(ours: Labels, theirs: Labels) -> float:
    """Return the standard error of the difference of accuracies, were both the same (pooled)."""
    pooled = (ours + theirs).accuracy
    return math.sqrt(pooled * (1 - pooled) * (1 / ours.labelled + 1 / theirs.labelled))


def stray_of_errors(ours: Labels, theirs: Labels) -> float:
    """Return the standard error of the difference of mean errors (Welch's)."""
    return math.sqrt(ours.error_variance / ours.answers + theirs.error_variance / theirs.answers)
