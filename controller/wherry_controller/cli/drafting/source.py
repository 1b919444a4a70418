"""Drafts the source: what kind of file it is, what it says, and what it takes to load it."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from wherry_controller.cli.drafting import proposing, spelling
from wherry_controller.cli.drafting.asking import Question, settle, tell
from wherry_controller.cli.drafting.describing import Description, ask_file
from wherry_controller.cli.drafting.given import Draft
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.card import Constant, Source, SourceKind

KINDS = tuple(kind.value for kind in SourceKind)


def describe(draft: Draft) -> Description | None:
    """Return what the file says; where it cannot be read, its kind and nothing else."""
    kind = _kind(draft.flags.kind) if draft.flags.kind is not None else None
    try:
        found = ask_file(draft.file)
    except Ended as ended:
        if kind is None and ended.code is not Exit.UNAVAILABLE:
            raise
        tell(ended.sentence)
        kind = kind or _ask_kind(draft)
        return None if kind is None else Description(kind)
    return found if kind in (None, found.kind) else Description(kind)


def describe_net(draft: Draft, found: Description, factory: str) -> Description:
    """Return what the factory's net says too; its code runs for that, in the child."""
    try:
        named = ask_file(draft.file, factory)
    except Ended as ended:
        if ended.code is not Exit.UNAVAILABLE:
            raise
        return found
    return named if named.kind is found.kind else found


def draft_source(draft: Draft, found: Description) -> Source | None:
    flags, folder = draft.flags, draft.folder
    factory, fixed = _factory(draft, found), _constants(draft, found)
    if factory is None and found.kind is SourceKind.STATE_DICT:
        return None
    return Source(
        kind=found.kind,
        file=spelling.file_beside(folder, draft.file.name),
        factory=factory,
        code=tuple(spelling.file_beside(folder, name) for name in flags.code),
        external_data=tuple(spelling.file_beside(folder, name) for name in found.external_data),
        names=spelling.pairs(flags.name, "NAME=FILE_NAME", str),
        constants=fixed,
    )


def with_code(source: Source, draft: Draft, functions: tuple[str | None, ...]) -> Source:
    """Return the source with the modules beside it that its own and other functions import."""
    found = proposing.code_beside(draft.folder, (source.factory, *functions))
    return replace(source, code=tuple(dict.fromkeys((*source.code, *found))))


def _kind(text: str) -> SourceKind:
    return SourceKind(spelling.one_of(KINDS)(text))


def _ask_kind(draft: Draft) -> SourceKind | None:
    text = f"Kind of {draft.file.name} ({', '.join(KINDS)})"
    return draft.asker.ask(Question("--kind", text, _kind))


def _factory(draft: Draft, found: Description) -> str | None:
    read = partial(spelling.function_beside, draft.folder)
    if found.kind is not SourceKind.STATE_DICT:
        return None if draft.flags.factory is None else read(draft.flags.factory)
    text = "Function that makes the net, like net.py:make_net"
    question = Question("--factory", text, read, proposing.factory_in(draft.folder))
    return settle(draft.asker, draft.flags.factory, question)


def _constants(draft: Draft, found: Description) -> dict[str, Constant]:
    """Return what inputs of the file are fixed to: those that are given, and single numbers."""
    fixed = spelling.pairs(draft.flags.constant, "NAME=VALUE", spelling.constant)
    for tensor in found.inputs:
        if tensor.shape == () and tensor.name not in fixed:
            text = f"Input {tensor.name!r} is a single number, which the card fixes to"
            flag = f"--constant {tensor.name}=VALUE"
            value = draft.asker.ask(Question(flag, text, spelling.constant))
            fixed[tensor.name] = 0 if value is None else value  # None ends at `finish`.
    return fixed
