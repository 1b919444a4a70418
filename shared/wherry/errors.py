"""The four kinds of refusal, sorted by what whoever is told can do about it.

Every error that Wherry raises on purpose is one of these. A kind may have named cases; a case
carries the facts as attributes, and its sentence ends with what to do next.
"""

from __future__ import annotations


class Malformed(Exception):
    """It lacks the form that it must have: sending the same again does not help."""


class Untrusted(Exception):
    """Nobody who is trusted vouches for it, or what came is not what they vouched for."""


class Unsuitable(Exception):
    """It is sound and trusted, and it does not fit here: another choice is needed."""


class Unavailable(Exception):
    """It cannot be had now: the same may succeed later."""


Refusal = Malformed | Untrusted | Unsuitable | Unavailable
REFUSALS = (Malformed, Untrusted, Unsuitable, Unavailable)
