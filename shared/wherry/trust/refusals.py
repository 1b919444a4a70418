"""Why trust metadata or an order was refused: a reason code, and what it is about."""

from __future__ import annotations

from wherry.errors import Untrusted
from wherry.messages import detail
from wherry.reasons import Reason


class MetadataRefused(Untrusted):
    """Trust metadata that may not take the place of what is trusted."""

    def __init__(self, reason: Reason, role: str, problem: str) -> None:
        super().__init__(reason, role, problem)
        self.reason, self.role, self.detail = reason, role, detail(problem)

    def __str__(self) -> str:
        return (
            f"the {self.role} metadata is refused ({self.reason.value}): {self.detail}; "
            "publish newer metadata, signed by the keys that root names."
        )


class OrderRefused(Untrusted):
    """An order that this device may not follow."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(reason, problem)
        self.reason, self.detail = reason, detail(problem)

    def __str__(self) -> str:
        return (
            f"the order is refused ({self.reason.value}): {self.detail}; "
            "let the director sign a newer one for this device."
        )
