"""The audit log: every signature, enrolment, approval, revocation and refusal, one entry each.

`note` writes in the transaction of what it tells of, so that neither stands without the other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from wherry.names import Digest
from wherry_controller.core import audit as core
from wherry_controller.core.audit import Kind
from wherry_controller.store import audit
from wherry_controller.store.database import Transaction

log = logging.getLogger(__name__)

LONGEST_FACT = 500


def note(tx: Transaction, kind: Kind, facts: Mapping[str, object], now: float) -> Digest:
    """Add an entry of these facts, each as text of at most `LONGEST_FACT` characters.

    Returns its digest, the new head.
    """
    seq, previous = audit.last_of_audit(tx)
    texts = {name: str(fact)[:LONGEST_FACT] for name, fact in facts.items()}
    head = audit.add_entry(tx, core.entry_after(seq, previous, kind, texts, now))
    log.info("audit.noted", extra={"seq": seq + 1, "kind": kind.value, "head": head})
    return head
