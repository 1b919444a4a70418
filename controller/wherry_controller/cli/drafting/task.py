"""Drafts the task: which output is judged, by which metric, and what is claimed of it."""

from __future__ import annotations

from functools import partial

from wherry.signature import Signature, Tensor
from wherry_controller.cli.drafting import proposing, spelling
from wherry_controller.cli.drafting.asking import NONE, Question, settle
from wherry_controller.cli.drafting.given import Draft
from wherry_controller.core.card import MetricName, Task

METRICS = tuple(metric.value for metric in MetricName)
FIRST_K = "5"


def draft_task(draft: Draft, signature: Signature) -> Task | None:
    judged = _output(draft, signature)
    metric = None if judged is None else _metric(draft, judged)
    if judged is None or metric is None:
        return None
    boxes = classes = function = None
    if metric is MetricName.MAP:
        boxes = _other_output(draft, signature, draft.flags.boxes, "boxes")
        classes = _other_output(draft, signature, draft.flags.classes, "classes")
    if metric is MetricName.FUNCTION:
        function = _function(draft)
    if (metric is MetricName.MAP and not (boxes and classes)) or (
        metric is MetricName.FUNCTION and function is None
    ):
        return None
    return Task(
        output=judged.name,
        metric=metric,
        k=_first_k(draft, metric),
        boxes=boxes or "",
        classes=classes or "",
        function=function,
        higher_is_better=not draft.flags.lower_is_better,
        claimed=_claimed(draft, metric),
    )


def _output(draft: Draft, signature: Signature) -> Tensor | None:
    fed = {pair.output for pair in signature.states}
    outputs = {one.name: one for one in signature.outputs if one.name not in fed}
    if not outputs:  # Every output is a state, so one of them is the answer too.
        outputs = {one.name: one for one in signature.outputs}
    if draft.flags.task_output is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    likely = proposing.task_output(tuple(outputs.values()))
    text = f"Output that labels are compared with ({', '.join(outputs)})"
    read = spelling.one_of([one.name for one in signature.outputs])
    question = Question("--task-output", text, read, likely.name)
    name = settle(draft.asker, draft.flags.task_output, question)
    return next((one for one in signature.outputs if one.name == name), None)


def _metric(draft: Draft, judged: Tensor) -> MetricName | None:
    likely = proposing.metric_for(judged)
    text = f"Metric ({', '.join(METRICS)})"
    read = spelling.one_of(METRICS)
    default = None if likely is None else likely.value
    name = settle(draft.asker, draft.flags.metric, Question("--metric", text, read, default))
    return None if name is None else MetricName(name)


def _first_k(draft: Draft, metric: MetricName) -> int:
    question = Question("--k", "How many of the first answers count", spelling.whole, FIRST_K)
    if metric is not MetricName.TOP_K:
        return int(FIRST_K)
    return settle(draft.asker, draft.flags.k, question) or int(FIRST_K)


def _other_output(draft: Draft, signature: Signature, given: str | None, what: str) -> str | None:
    names = [tensor.name for tensor in signature.outputs]
    text = f"Output of the {what} ({', '.join(names)})"
    default = what if what in names else None
    return settle(draft.asker, given, Question(f"--{what}", text, spelling.one_of(names), default))


def _function(draft: Draft) -> str | None:
    read = partial(spelling.function_beside, draft.folder)
    question = Question("--function", "Function that judges, like score.py:score", read)
    return settle(draft.asker, draft.flags.function, question)


def _claimed(draft: Draft, metric: MetricName) -> float | None:
    question = Question("--claimed", f"Claimed {metric.value}", spelling.number, NONE)
    return settle(draft.asker, draft.flags.claimed, question)
