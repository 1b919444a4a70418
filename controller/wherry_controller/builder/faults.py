"""Refusals of a build: raised by name, also where foreign code raises whatever it likes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from wherry_controller.core.fault import BuildReason, BuildRefused, Fault

LONGEST_CAUSE = 300
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def refuse(reason: BuildReason, problem: str) -> NoReturn:
    raise BuildRefused(Fault(reason, problem))


def refuse_if(fault: Fault | None) -> None:
    if fault is not None:
        raise BuildRefused(fault)


@contextmanager
def refusing(reason: BuildReason, what: str) -> Iterator[None]:
    """Give whatever the body raises that name: it calls a user's net or a converter fed with it.

    Nothing bounds what such code raises, so this is the one place that catches everything.
    """
    try:
        yield
    except BuildRefused:
        raise
    except (Exception, SystemExit) as error:
        cause = " ".join(COLOURS.sub("", str(error)).split())[:LONGEST_CAUSE] or "no words"
        fault = Fault(reason, f"{what} ({type(error).__name__}: {cause})")
        raise BuildRefused(fault) from error
