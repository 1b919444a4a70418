"""What the repository, configuration, trace and logging extensions are told here.

The controller decides which bundle a device serves, so nothing is loaded or unloaded by an
application; what serves may be listed.
"""

from __future__ import annotations

from collections.abc import Iterable

from wherry.errors import Unsuitable
from wherry.names import AliasName
from wherry_agent.asking import BundlePlace


class NotOffered(Unsuitable):
    """What this server does not do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}."


def index(serving: Iterable[tuple[AliasName, BundlePlace | None]]) -> list[dict[str, str]]:
    """Return what serves under each alias, and which aliases have nothing that does."""
    return [
        {
            "name": alias,
            "version": place.digest if place else "",
            "state": "READY" if place else "UNAVAILABLE",
            "reason": "" if place else "nothing serves",
        }
        for alias, place in serving
    ]


def no_loading(alias: str) -> NotOffered:
    return NotOffered(
        f"the controller decides what is served under {alias[:80]!r}",
        "create a rollout with `wherry rollout create`",
    )


def no_extension(path: str) -> NotOffered:
    return NotOffered(
        f"{path[:120]!r} is of an extension that this server does not have",
        "GET /v2 names those that it has",
    )
