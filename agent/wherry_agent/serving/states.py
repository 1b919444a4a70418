"""The state of a stateful model that clients carry: which bundle it is of, and what if it is stale.

A client gives back, as inputs, outputs of the answer before. They mean something only to the
bundle that gave them: a request names it in `state_of`, as the answer did, or begins with zeros. A
state of a bundle that no longer answers is stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from wherry.errors import Malformed, Unsuitable
from wherry.names import AliasName
from wherry.signature import Signature
from wherry_agent.asking import BundlePlace
from wherry_agent.frames import Tensor
from wherry_agent.settings import StaleState


class StateOfNobody(Malformed):
    """A state without a word on which bundle gave it."""

    def __init__(self, inputs: Sequence[str]) -> None:
        super().__init__(inputs)
        self.inputs = tuple(inputs)

    def __str__(self) -> str:
        return (
            f"{', '.join(self.inputs)} carries state and nothing says whose: give the answer's "
            "`state_of` back in `parameters`, or leave the state out to begin anew."
        )


class StaleStateRefused(Unsuitable):
    """A state that another bundle gave than those that answer."""

    def __init__(self, alias: AliasName, state_of: str, serving: str) -> None:
        super().__init__(alias, state_of, serving)
        self.alias, self.state_of, self.serving = alias, state_of, serving

    def __str__(self) -> str:
        return (
            f"StaleState: the state is of bundle {self.state_of[:80]!r} and {self.alias!r} is "
            f"served by {self.serving}; leave the state out to begin anew."
        )


class Tied(msgspec.Struct, frozen=True):
    """The bundle that a state belongs to, and the inputs to ask with.

    `place` is None where any bundle may answer. `reset`: a stale state was replaced by zeros.
    """

    place: BundlePlace | None
    inputs: tuple[Tensor, ...]
    reset: bool = False


def carries(signature: Signature) -> frozenset[str]:
    """Return the names of the inputs that carry state."""
    return frozenset(pair.input for pair in signature.states)


def tie(
    alias: AliasName,
    inputs: tuple[Tensor, ...],
    state_of: str | None,
    *,
    places: Sequence[BundlePlace],
    stale: StaleState,
) -> Tied:
    """Return who may answer a request; `places` holds the serving bundle first.

    Raises `StateOfNobody` or `StaleStateRefused`.
    """
    names = carries(places[0].manifest.signature)
    given = [tensor.name for tensor in inputs if tensor.name in names and any_set(tensor.data)]
    if not given:
        return Tied(None, inputs)
    if state_of is None:
        raise StateOfNobody(given)
    for place in places:
        if place.digest == state_of:
            return Tied(place, inputs)
    if stale is StaleState.REFUSE:
        raise StaleStateRefused(alias, state_of, places[0].digest)
    return Tied(None, tuple(_begun_anew(inputs, names)), reset=True)


def any_set(data: bytes | bytearray | memoryview) -> bool:
    """Return whether any byte is not zero."""
    return bytes(data).count(0) != len(data)


def _begun_anew(inputs: Iterable[Tensor], names: frozenset[str]) -> Iterable[Tensor]:
    for tensor in inputs:
        zeros = bytes(len(tensor.data))
        yield replace(tensor, data=zeros) if tensor.name in names else tensor
