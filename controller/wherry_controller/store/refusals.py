"""What the store refuses by name: a thing that is not there, and one that is there already."""

from __future__ import annotations

from wherry.errors import Unsuitable


class Unknown(Unsuitable):
    """There is no such thing."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind, self.name = kind, name

    def __str__(self) -> str:
        return f"there is no {self.kind} {self.name!r}: list the {self.kind}s, or add it first."


class Taken(Unsuitable):
    """There is one already, and it is not overwritten."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind, self.name = kind, name

    def __str__(self) -> str:
        return f"there is a {self.kind} {self.name!r} already: choose another name."
