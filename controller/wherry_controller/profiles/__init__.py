"""The profiles that come along: one TOML file each, commented for people.

They are a start. What a database has under a name is the operator's and is never changed by a
release; `wherry profile add` replaces it, by a file or by the profile that comes along.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from wherry.profile import Profile
from wherry_controller.core.written import parse_profile

SUFFIX = ".toml"


def names() -> tuple[str, ...]:
    """Return the names of the profiles that come along, in order."""
    files = (file.name for file in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)))


def toml_of(name: str) -> bytes:
    """Return the file of one of `names`, as people read it."""
    return resources.files(__name__).joinpath(name + SUFFIX).read_bytes()


@cache
def shipped() -> tuple[Profile, ...]:
    """Return the profiles that come along, by name."""
    return tuple(parse_profile(toml_of(name)) for name in names())
