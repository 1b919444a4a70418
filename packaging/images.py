"""Builds our container images with podman: `python packaging/images.py [IMAGE …]`.

    build/images/IMAGE/                    what podman builds it from: wheels, our scripts
    localhost/IMAGE:VERSION                the image, in podman's store
    dist/IMAGE_VERSION_ARCH.cdx.json       what is in it

Wheels are gathered here, at the versions of constraints.txt; in the build only Debian is asked for
packages. `BASE` names what the images stand on, `EXTRAS` what the controller can.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from debs import epoch, version_of_this
from staging import MACHINES, ROOT

HERE = ROOT / "packaging/containers"
SCRATCH, OUTPUT = ROOT / "build/images", ROOT / "dist"
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28")
# Debian 12's.
PYTHON = "3.11"


@dataclass(frozen=True, slots=True)
class Image:
    """An image: which of our projects it has, and which files beside them."""

    name: str
    projects: tuple[str, ...]
    extras: str
    files: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        return f"localhost/{self.name}:{version_of_this()}"


AGENT = Image("wherry-agent", ("shared", "agent"), "host,onnx")
CONTROLLER = Image(
    "wherry-controller",
    ("shared", "controller"),
    "builder,images,litert,postgresql,tables",
    ("found", "healthy.py"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="packaging/images.py")
    parser.add_argument("images", nargs="*", help="both, where none is named")
    asked = parser.parse_args()
    arches = {machine: arch for arch, machine in MACHINES.items()}
    if (machine := platform.machine()) not in arches:
        sys.stderr.write(f"No image for {machine}: build it on {', '.join(arches)}.\n")
        return 1
    OUTPUT.mkdir(exist_ok=True)
    extras = os.environ.get("EXTRAS") or CONTROLLER.extras
    for image in (AGENT, replace(CONTROLLER, extras=extras)):
        if not asked.images or image.name in asked.images:
            build(image, arches[machine])
            sys.stdout.write(f"{image.tag}\n{list_parts(image, arches[machine])}\n")
    return 0


def build(image: Image, arch: str) -> None:
    """Leave the image in podman's store."""
    folder = gather(image, arch)
    wanted = {
        "EXTRAS": image.extras,
        "REVISION": _git("rev-parse", "HEAD"),
        "VERSION": version_of_this(),
    }
    if base := os.environ.get("BASE"):
        wanted["BASE"] = base
    told = [f"--build-arg={name}={value}" for name, value in wanted.items()]
    file = HERE / f"{image.name.removeprefix('wherry-')}.Containerfile"
    # The format of OCI has no place for HEALTHCHECK.
    form = ["--format=docker", f"--timestamp={epoch()}", "--network=host"]
    command = ["podman", "build", "--quiet", *form, *told, f"--file={file}", f"--tag={image.tag}"]
    subprocess.run([*command, str(folder)], check=True, stdout=subprocess.DEVNULL)


def gather(image: Image, arch: str) -> Path:
    """Fill the folder that podman builds the image from."""
    folder = SCRATCH / image.name
    wheels = folder / "wheels"
    shutil.rmtree(folder, ignore_errors=True)
    wheels.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    making = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, *making, *(str(ROOT / each) for each in image.projects)], check=True)
    (ours,) = wheels.glob(f"{image.name.replace('-', '_')}-*.whl")
    pins = ["--constraint", str(ROOT / "constraints.txt"), "--python-version", PYTHON]
    platforms = [f"--platform={each}_{MACHINES[arch]}" for each in PLATFORMS]
    fetching = ["download", "--only-binary=:all:", "--dest", str(wheels), *pins, *platforms]
    more = os.environ.get("TORCH_INDEX")
    index = ["--extra-index-url", more] if more else []
    links = ["--find-links", str(wheels), *index]
    subprocess.run([*pip, *fetching, *links, f"{ours}[{image.extras}]"], check=True)
    for name in image.files:
        shutil.copy(HERE / name, folder / name)
        # Whatever umask the checkout was made under: the image's user is another one.
        (folder / name).chmod(0o755)
    return folder


def list_parts(image: Image, arch: str) -> Path:
    """Write what the image holds, as its own Python and dpkg tell; return where."""
    target = OUTPUT / f"{image.name}_{version_of_this()}_{arch}.cdx.json"
    running = ["podman", "run", "--rm", "--interactive", "--network=none", "--no-healthcheck"]
    telling = [*running, "--entrypoint=python3", image.tag, "-", image.name]
    with (HERE / "sbom.py").open() as script, target.open("w") as output:
        words = [*telling, version_of_this(), arch]
        subprocess.run(words, check=True, stdin=script, stdout=output)
    return target


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
