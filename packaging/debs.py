"""Builds our Debian packages: `python packaging/debs.py ARCH [PACKAGE …]`, with nfpm.

    build/deb/ARCH/PACKAGE/    what the package installs, and its scripts
    dist/*.deb                 the packages

A package holds all that it needs for each of its Pythons, so that installing it takes no pip, no
environment and no network. Its files stand in a folder of its version, to which `current` points
once all of them are there (see `debian/`). Two builds of one commit by one maintainer are
identical.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import armhf
from built import is_built, mark_built
from controllers import controller
from package import CPP, LIBC, SCRIPTS, Package, part
from packing import repack
from staging import (
    ROOT,
    install_common,
    install_compiled,
    install_ours,
    link_what_is_the_same,
    prune,
    settle_modes,
    strip,
)

OUTPUT, SCRATCH = ROOT / "dist", ROOT / "build" / "deb"
PYTHON3 = ("python3 (>= 3.10~)", "python3 (<< 3.14~)")
ARCHES = ("amd64", "arm64", armhf.ARCH)
# One wheel of each serves every Python: it is pure, or keeps to the stable ABI.
COMMON = (
    "cryptography",
    "paho-mqtt",
    "psutil",
    "securesystemslib",
    "tomli",
    "tuf",
    "typing_extensions",
    "urllib3",
)
COMPILED = ("cffi", "httptools", "msgspec", "zstandard")
RUNTIMES = {
    "wherry-agent-onnx": ("numpy", "onnxruntime"),
    "wherry-agent-litert": ("ai-edge-litert", "numpy"),
    "wherry-agent-tflite": ("tflite-runtime",),
}
USER = "wherry-agent"


def main() -> int:
    parser = argparse.ArgumentParser(prog="packaging/debs.py")
    parser.add_argument("arch", choices=ARCHES)
    parser.add_argument("packages", nargs="*", help="all, where none is named")
    parser.add_argument(
        "--missing", action="store_true", help="build only what this commit has not built"
    )
    asked = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    for package in packages_for(asked.arch):
        if asked.packages and package.name not in asked.packages:
            continue
        if not (asked.missing and is_built(*_places(package, asked.arch))):
            sys.stdout.write(f"{build(package, asked.arch)}\n")
    return 0


def packages_for(arch: str) -> tuple[Package, ...]:
    if arch == armhf.ARCH:
        return tuple(map(_for_armhf, (agent(), runtime("wherry-agent-tflite"))))
    names = ("wherry-agent-onnx", "wherry-agent-litert")
    return (agent(), *map(runtime, names), controller())


def _for_armhf(package: Package) -> Package:
    return replace(
        package,
        depends=armhf.depends_of(package.name, package.depends),
        recommends=armhf.RECOMMENDS if package.recommends else (),
        pythons=(armhf.PYTHON,),
    )


def agent() -> Package:
    units = ("wherry-agent.service", "wherry-agent.socket", "wherry-agent-repair.service")
    return Package(
        name="wherry-agent",
        summary="serves and swaps machine-learning models on this device",
        common=COMMON,
        compiled=COMPILED,
        ours=("shared/wherry", "agent/wherry_agent"),
        depends=(*PYTHON3, LIBC, "libgcc-s1", "adduser", "init-system-helpers (>= 1.54~)"),
        recommends=("wherry-agent-onnx | wherry-agent-litert",),
        files={
            "/usr/bin/wherry-agent": SCRIPTS / "launcher",
            "/usr/libexec/wherry-agent/repair": SCRIPTS / "repair",
            **{f"/usr/lib/systemd/system/{unit}": ROOT / "systemd" / unit for unit in units},
        },
        conffiles={"/etc/default/wherry-agent": SCRIPTS / "wherry-agent.default"},
        manual=SCRIPTS / "wherry-agent.1",
        words={
            "ACCOUNTS": part("agent.accounts"),
            "START": part("agent.start"),
            "STOP": part("agent.stop"),
            "PURGE": part("agent.purge"),
        },
    )


def runtime(name: str) -> Package:
    what = {
        "wherry-agent-onnx": "ONNX",
        "wherry-agent-litert": "LiteRT (TensorFlow Lite)",
        "wherry-agent-tflite": "TensorFlow Lite",
    }[name]
    return Package(
        name=name,
        summary=f"runs {what} models for wherry-agent",
        compiled=RUNTIMES[name],
        depends=(*PYTHON3, LIBC, *CPP, "wherry-agent"),
        words={"START": part("runtime.start")},
    )


def build(package: Package, arch: str) -> Path:
    """Return the package that was built."""
    folder = SCRATCH / arch / package.name
    shutil.rmtree(folder, ignore_errors=True)
    version = version_of_this()
    tree = folder / "tree"
    fill(package, tree / "usr/lib" / package.name / version, arch)
    _document(package, tree, version)
    for place, source in package.files.items():
        target = tree / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_filled(source.read_text(), package, version))
        is_program = target.parent.name in ("bin", package.name)
        target.chmod(0o755 if is_program else 0o644)
    scripts = _scripts(package, folder, version)
    (folder / "nfpm.yaml").write_text(json.dumps(_told(package, arch, version, tree, scripts)))
    target = folder / f"{package.name}_{version}_{arch}.deb"
    command = ["nfpm", "package", "--packager", "deb", "--target", str(target)]
    subprocess.run(
        [*command, "--config", str(folder / "nfpm.yaml")],
        check=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch()},
        stdout=subprocess.DEVNULL,
    )
    repack(target, folder / "packed", int(epoch()))
    built = target.replace(OUTPUT / target.name)
    mark_built(built, folder)
    return built


def _places(package: Package, arch: str) -> tuple[Path, Path]:
    """Return where a package goes, and the folder of what it is made from."""
    deb = OUTPUT / f"{package.name}_{version_of_this()}_{arch}.deb"
    return deb, SCRATCH / arch / package.name


def fill(package: Package, lib: Path, arch: str) -> None:
    """Fill the folder of the version with libraries and ours."""
    if arch == armhf.ARCH:
        armhf.install_for_armhf(package.common, package.compiled, lib)
    else:
        install_common(package.common, lib / "app", arch, package.pythons)
        install_compiled(package.compiled, lib, arch, package.pythons)
    for folder in lib.iterdir():
        prune(folder)
    strip(lib, arch)
    link_what_is_the_same(lib)
    install_ours(package.ours, lib / "app")
    shutil.copy(SCRIPTS / "compile.py", lib)
    settle_modes(lib)


def version_of_this() -> str:
    text = (ROOT / "shared/wherry/__init__.py").read_text()
    return text.partition('__version__ = "')[2].partition('"')[0]


def epoch() -> str:
    """Return when the commit was made, for builds that are identical."""
    if told := os.environ.get("SOURCE_DATE_EPOCH"):
        return told
    return _of_the_commit("%ct")


def maintainer() -> str:
    """Return whom Debian's variables name as who packs, else the author of the commit."""
    name, address = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    return f"{name} <{address}>" if name and address else _of_the_commit("%an <%ae>")


def mtime() -> str:
    """Return `epoch` as nfpm reads it."""
    return datetime.fromtimestamp(int(epoch()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _of_the_commit(form: str) -> str:
    command = ["git", "-C", str(ROOT), "log", "-1", f"--format={form}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _told(
    package: Package, arch: str, version: str, tree: Path, scripts: Mapping[str, str]
) -> dict[str, object]:
    """Return nfpm's configuration."""
    return {
        "name": package.name,
        "arch": arch,
        "platform": "linux",
        "version": version,
        "version_schema": "none",
        "section": "misc",
        "priority": "optional",
        "maintainer": maintainer(),
        "description": f"{package.summary}\n{(SCRIPTS / f'{package.name}.txt').read_text()}",
        "depends": list(package.depends),
        "recommends": list(package.recommends),
        "contents": [
            {"src": f"{tree}/", "dst": "/", "type": "tree"},
            *(
                {"src": str(source), "dst": place, "type": "config", "file_info": {"mode": 0o644}}
                for place, source in package.conffiles.items()
            ),
        ],
        "scripts": dict(scripts),
        "mtime": mtime(),
        # `packing` compresses it.
        "deb": {"compression": "none"},
    }


def _scripts(package: Package, folder: Path, version: str) -> dict[str, str]:
    """Write the maintainer's scripts; return where, by nfpm's names."""
    names = {
        "preinstall": "preinst",
        "postinstall": "postinst",
        "preremove": "prerm",
        "postremove": "postrm",
    }
    for name in names.values():
        (folder / name).write_text(_filled((SCRIPTS / name).read_text(), package, version))
    return {told: str(folder / name) for told, name in names.items()}


def _filled(text: str, package: Package, version: str) -> str:
    words = {
        "PACKAGE": package.name,
        "VERSION": version,
        "PACKAGES": " ".join(("wherry-agent", *RUNTIMES)),
        "PROGRAM": "wherry-agent",
        "MODULE": "wherry_agent",
        "PYTHONS": " to ".join(dict.fromkeys((package.pythons[0], package.pythons[-1]))),
        **dict.fromkeys(("ACCOUNTS", "START", "STOP", "PURGE"), ":"),
        **package.words,
        "RUNTIMES": " ".join(RUNTIMES),
    }
    for word, value in words.items():
        text = _put_in(text, f"@{word}@", value)
    return text


def _put_in(text: str, word: str, value: str) -> str:
    """Put a value, each line of it indented as the word was, where the word stands."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(line.replace(word, value.replace("\n", f"\n{indent}")))
    return "\n".join([*lines, ""])


def _document(package: Package, tree: Path, version: str) -> None:
    """Write what Debian's policy wants of every package: its licence and what changed."""
    if package.manual:
        pages = tree / "usr/share/man/man1"
        pages.mkdir(parents=True)
        page = gzip.compress(package.manual.read_bytes(), 9, mtime=0)
        (pages / f"{package.manual.name}.gz").write_bytes(page)
    overrides = SCRIPTS / f"{package.name}.overrides"
    if overrides.exists():
        folder = tree / "usr/share/lintian/overrides"
        folder.mkdir(parents=True)
        (folder / package.name).write_text(_filled(overrides.read_text(), package, version))
    folder = tree / "usr/share/doc" / package.name
    folder.mkdir(parents=True)
    (folder / "copyright").write_text((SCRIPTS / "copyright").read_text())
    date = subprocess.run(
        ["date", "-R", "-u", "-d", f"@{epoch()}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    text = (
        f"{package.name} ({version}) stable; urgency=medium\n\n"
        f"  * What changed stands in CHANGELOG.md of the project.\n\n -- {maintainer()}  {date}\n"
    )
    (folder / "changelog.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    sys.exit(main())
