"""Where the controller is and what token it takes: the environment first, then `wherry login`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from wherry import codec
from wherry.files import make_folder, write_whole
from wherry_controller.cli.outcome import Ended, Exit


class Login(msgspec.Struct, frozen=True):
    url: str
    token: str


def path_in(environment: Mapping[str, str]) -> Path:
    """Return the file that `wherry login` writes (XDG Base Directory Specification)."""
    home = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "wherry" / "login.json"


def save(login: Login, environment: Mapping[str, str]) -> Path:
    path = path_in(environment)
    make_folder(path.parent, mode=0o700)
    write_whole(path, codec.encode(login), mode=0o600)
    return path


def find(environment: Mapping[str, str] = os.environ) -> Login:
    """Return the login in force; WHERRY_URL and WHERRY_TOKEN go before the saved one."""
    saved = _saved(path_in(environment))
    url = environment.get("WHERRY_URL") or (saved.url if saved else "")
    token = environment.get("WHERRY_TOKEN") or (saved.token if saved else "")
    if not url or not token:
        raise Ended(
            Exit.USAGE,
            "no controller is known: run `wherry login URL`, or set WHERRY_URL and WHERRY_TOKEN.",
        )
    return Login(url, token)


def _saved(path: Path) -> Login | None:
    try:
        return codec.decode(Login, path.read_bytes())
    except FileNotFoundError:
        return None
