"""A device's papers on its disk: key, certificate and CA, replaced all at once.

`HOME/identity` is a link to the folder that holds them, so a power cut leaves the old papers or
the new ones and never a key with another key's certificate:

    HOME/identity        -> identity-SERIAL/
    HOME/identity-SERIAL/   key.pem cert.pem ca.pem identity.json
    HOME/identity-asked/    key.pem csr.pem: what the controller was asked to certify

What was asked for stays until it is answered, so that a lost answer is asked for again with the
same request. The key is readable by its owner alone.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from wherry import codec
from wherry.files import make_folder, sync_folder, write_whole
from wherry_agent.settings import IDENTITY, ROOT_FILE, Identity

ASKED = "identity-asked"
LINK = "identity-link"
KEY, REQUEST, CERTIFICATE, CA, FACTS = "key.pem", "csr.pem", "cert.pem", "ca.pem", "identity.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """PEM texts: the private key, its certificate, the CA's certificate."""

    key: bytes
    certificate: bytes
    ca: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """What the controller was asked to certify: a private key and its request, in PEM."""

    key: bytes
    request: bytes


def read_papers(home: Path) -> Papers:
    """Return the papers of `home`; raise `FileNotFoundError` where it has none."""
    folder = home / IDENTITY
    return Papers(
        key=(folder / KEY).read_bytes(),
        certificate=(folder / CERTIFICATE).read_bytes(),
        ca=(folder / CA).read_bytes(),
    )


def read_asked(home: Path) -> Asked | None:
    """Return what was asked for and not yet answered, None where nothing was."""
    folder = home / ASKED
    try:
        return Asked((folder / KEY).read_bytes(), (folder / REQUEST).read_bytes())
    except FileNotFoundError:
        return None


def write_asked(home: Path, asked: Asked) -> None:
    """Keep what is about to be asked for."""
    make_folder(home)
    folder = make_folder(home / ASKED, mode=0o700)
    write_whole(folder / KEY, asked.key, mode=0o600)
    write_whole(folder / REQUEST, asked.request)


def forget_asked(home: Path) -> None:
    shutil.rmtree(home / ASKED, ignore_errors=True)


def write_papers(home: Path, papers: Papers, identity: Identity) -> None:
    """Make these the papers of `home`, and remove all others; twice is the same as once."""
    make_folder(home)
    folder = make_folder(home / f"{IDENTITY}-{identity.serial}", mode=0o700)
    write_whole(folder / KEY, papers.key, mode=0o600)
    write_whole(folder / CERTIFICATE, papers.certificate)
    write_whole(folder / CA, papers.ca)
    write_whole(folder / FACTS, codec.encode(identity))
    link = home / LINK
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(home / IDENTITY)
    sync_folder(home)
    for old in home.glob(f"{IDENTITY}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def write_root(home: Path, root: bytes) -> None:
    """Keep the root of trust that came with an enrolment."""
    make_folder((home / ROOT_FILE).parent)
    write_whole(home / ROOT_FILE, root)
