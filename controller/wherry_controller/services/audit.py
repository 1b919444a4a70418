"""The audit log: every signature, enrolment, approval, revocation and refusal, one entry each.

`note` writes in the transaction of what it tells of, so that neither stands without the other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from wherry.names import Digest
from wherry_controller.core import audit as core
from wherry_controller.core.audit import Entry, Kind
from wherry_controller.store import audit
from wherry_controller.store.database import Transaction

log = logging.getLogger(__name__)

LONGEST_FACT = 500


def note(tx: Transaction, kind: Kind, facts: Mapping[str, object], now: float) -> Digest:
    """Add an entry of these facts, each as text of at most `LONGEST_FACT` characters.

    Returns its digest, the new head.
    """
    return note_each(tx, kind, (facts,), now)


def note_each(
    tx: Transaction, kind: Kind, many: Sequence[Mapping[str, object]], now: float
) -> Digest:
    """Add an entry for each of `many`, in order; return the new head."""
    seq, head = audit.last_of_audit(tx)
    entries: list[Entry] = []
    for facts in many:
        texts = {name: str(fact)[:LONGEST_FACT] for name, fact in facts.items()}
        entry = core.entry_after(seq + len(entries), head, kind, texts, now)
        entries.append(entry)
        head = core.digest_of_entry(entry)
    audit.add_entries(tx, entries)
    noted = {"seq": seq + len(entries), "kind": kind.value, "entries": len(entries), "head": head}
    log.info("audit.noted", extra=noted)
    return head
