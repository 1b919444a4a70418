"""Names that nothing has, and names that are taken: one sentence for each, with the next step."""

from __future__ import annotations

from collections.abc import Sequence

from wherry.errors import Unsuitable


class Missing(Unsuitable):
    """A name that nothing of its kind has; the HTTP API answers 404."""

    kind = "thing"
    remedy = "look at what there is"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no {self.kind} {self.name!r}: {self.remedy}."


class UnknownModel(Missing):
    kind, remedy = "model", "see `wherry model list`, or add it with `wherry model add`"


class UnknownVersion(Missing):
    """`name` is written `model:version`."""

    kind, remedy = "version", "see `wherry model show`, or add it with `wherry model add`"


class UnknownProfile(Missing):
    """A profile that nobody declared; the sentence names those that there are."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        Missing.__init__(self, name)
        self.known = tuple(known)

    def __str__(self) -> str:
        if not self.known:
            return f"there is no profile {self.name!r}: add it with `wherry profile add`."
        return (
            f"there is no profile {self.name!r}: choose one of {', '.join(self.known)}, "
            "or add it with `wherry profile add`."
        )


class UnknownBuild(Missing):
    kind, remedy = "build", "see `wherry model builds`"


class UnknownLog(Missing):
    """`name` is a build, or a build and a profile."""

    kind, remedy = "log of", "it has none before it begins; see `wherry model builds`"


class UnknownReport(Missing):
    """`name` is written `model:version`."""

    kind, remedy = "report of", "make one with `wherry build`"


class UnknownReference(Missing):
    """`name` is written `model:version`."""

    kind, remedy = "reference of", "keep one with `wherry build`"


class UnknownBundle(Missing):
    kind, remedy = "bundle", "see `wherry bundle list`"


class UnknownDevice(Missing):
    kind, remedy = "device", "see `wherry device list`, or add it with `wherry device add`"


class UnknownGroup(Missing):
    kind, remedy = "group", "see `wherry group list`, or make it with `wherry group set`"


class UnknownPlace(Missing):
    """What shall measure is neither a group nor a device."""

    kind, remedy = "group or device", "see `wherry group list` and `wherry device list`"


class UnknownRollout(Missing):
    kind, remedy = "rollout", "see `wherry rollout list`"


class Taken(Unsuitable):
    """There is one of that name already, and it is another; it is not overwritten."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind, self.name = kind, name

    def __str__(self) -> str:
        return f"there is a {self.kind} {self.name!r} already: choose another name."
