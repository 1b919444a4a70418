"""Images to stand on where no registry is asked: Debian, and mosquitto and PostgreSQL out of it.

The last two show what `compose.yaml` uses of the official images: the program's path, the plugin's
path, `POSTGRES_*`, the folder of data. They are made of Debian's packages, so that what is tried
with them is our file and our images, not those two.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.machines.nspawn import say

FOLDER = Path("build/machines").absolute()
HERE = Path(__file__).parent / "images"
BASE = "localhost/wherry-check-base:12"
MOSQUITTO = "docker.io/library/eclipse-mosquitto:2.0"
POSTGRES = "docker.io/library/postgres:16"
MAKE_S = 600
# As the official slim image leaves them out.
LEFT_OUT = ("doc", "info", "locale", "man")


def podman(*words: str, text: str = "", patience_s: float = MAKE_S) -> str:
    """Return what podman says; raise `CalledProcessError` where it fails."""
    done = podman_tried(*words, text=text, patience_s=patience_s)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
    return done.stdout.strip()


def podman_tried(
    *words: str, text: str = "", patience_s: float = MAKE_S
) -> subprocess.CompletedProcess[str]:
    """Run podman, whatever comes of it."""
    return subprocess.run(
        ["podman", *words],
        check=False,
        capture_output=True,
        text=True,
        input=text,
        timeout=patience_s,
        env=dict(os.environ),
    )


def make_base() -> None:
    """Leave Debian 12 as an image; its files are fetched the first time."""
    tar = FOLDER / "images-base.tar"
    if not tar.exists():
        say("Making Debian 12 for images (once)")
        tar.parent.mkdir(parents=True, exist_ok=True)
        part = tar.with_suffix(".part.tar")
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in LEFT_OUT]
        kept = "--dpkgopt=path-include=/usr/share/doc/*/copyright"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", *left_out, kept]
        subprocess.run([*command, "bookworm", str(part)], check=True, timeout=MAKE_S)
        part.rename(tar)
    podman("import", str(tar), BASE)


def make_stand_ins() -> None:
    """Leave images that `compose.yaml` names, of Debian's packages."""
    for name, tag in (("mosquitto", MOSQUITTO), ("postgres", POSTGRES)):
        file = HERE / f"{name}.Containerfile"
        told = (f"--build-arg=BASE={BASE}", "--format=docker", "--network=host", "--quiet")
        podman("build", *told, f"--file={file}", f"--tag={tag}", str(HERE))
