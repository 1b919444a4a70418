"""What a machine detects of itself, where a test has none such at hand."""

from __future__ import annotations

from wherry.profile import Facts, Profile


def some_facts(profile: Profile) -> Facts:
    """Return the facts of a machine that has exactly what the profile asks for."""
    return Facts(
        arch=profile.arch.value,
        cpu_features=tuple(wanted.split("|")[0] for wanted in profile.cpu_features),
        page_size_bytes=profile.page_size_bytes,
        memory_bytes=profile.memory_bytes or 0,
        libc=profile.libc_floor,
        python=profile.python_floor,
    )
