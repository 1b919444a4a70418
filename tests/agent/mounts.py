"""Commands in mounts of their own: what they mount nobody else sees, and it goes with them."""

from __future__ import annotations

import os
from collections.abc import Sequence

# Below a root that is no mount point nothing can be made private, and nothing has to be.
ALONE = "mount --make-rprivate / 2>/dev/null; "


def apart(mounting: str, command: Sequence[str]) -> list[str]:
    """Return `command` after the shell command `mounting`, both in mounts of their own.

    Root needs no more than that; who is not root is given the rights by a user namespace.
    """
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *rights, "--mount", "--propagation", "unchanged"]
    return [*unshare, "sh", "-c", f'{ALONE}{mounting} && exec "$@"', "sh", *command]
