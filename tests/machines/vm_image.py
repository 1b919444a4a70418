"""What a virtual machine boots: Debian's kernel, an initrd, a root with our agent.

    build/machines/power/kernel    Debian's kernel without its compression: it boots seconds sooner
    build/machines/power/initrd.gz busybox and the modules of a virtual disk and network
    build/machines/power/root.img  Debian 12 with Python and the agent, mounted read-only

The root is small and its only service is the agent: what is tested is the agent on a disk that
loses what was not flushed. As on any Debian, a disk is checked before it is mounted: a block of its
journal may be torn. Which bug is planted, if any, the kernel's command line says. With the word
`package` the agent runs in another root, which is written to: `vm_package`'s.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.machines.vm_cpio import archive
from wherry.errors import Unavailable

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "build/machines/power"
KERNEL, INITRD, ROOT_IMAGE = FOLDER / "kernel", FOLDER / "initrd.gz", FOLDER / "root.img"
LIBRARIES = (
    *("cffi", "cryptography", "httptools", "msgspec", "paho-mqtt", "psutil", "pycparser"),
    *("securesystemslib", "tuf", "typing_extensions", "urllib3", "zstandard"),
    *("flatbuffers", "numpy", "onnxruntime", "protobuf"),
)
LITERT_LIBRARIES = ("ai-edge-litert", "backports.strenum")
MODULES = (
    *("drivers/virtio/virtio_ring", "drivers/virtio/virtio"),
    *("drivers/virtio/virtio_pci_modern_dev", "drivers/virtio/virtio_pci_legacy_dev"),
    *("drivers/virtio/virtio_pci", "drivers/block/virtio_blk"),
    *("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net"),
    *("crypto/crc32c_generic", "lib/libcrc32c", "lib/crc16", "fs/mbcache", "fs/jbd2/jbd2"),
    "fs/ext4/ext4",
)
HOME, LIB = "/var/lib/wherry-agent", "/usr/lib/wherry-agent"
PACKAGED = "/packages"  # Is where the agent is a package.
PORT, UPGRADE_PORT = 9000, 9001
# This machine as the virtual one sees it, and that one's own address.
HOST, ADDRESS = "10.0.2.2", "10.0.2.15"
LITERT = "/usr/lib/wherry-litert"  # Apart: a runtime that is there is probed at each start.
# Each is a folder on the path of the agent's Python.
PLANTS = {
    "files": "import os\n\nos.fsync = lambda _descriptor: None\n",
    "database": """\
import sqlite3

real = sqlite3.connect


class Hasty(sqlite3.Connection):
    def execute(self, statement, *rest):
        return super().execute(statement.replace("synchronous = FULL", "synchronous = OFF"), *rest)


sqlite3.connect = lambda *words, **more: real(*words, **{"factory": Hasty, **more})
""",
    # What a worker binds itself to does not bind it: what then holds it is the kernel's limit.
    "unbounded": "import resource\n\nresource.setrlimit = lambda _kind, _limits: None\n",
}
CAUGHT_BY_CUTS = ("files", "database")
_XZ = b"\xfd7zXZ\x00"

_INITRD_INIT = """\
#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
while read -r module; do $bb insmod "/modules/$module"; done < /modules/order
$bb mount -t ext4 -o ro,noload /dev/vda /root
$bb mount --move /dev /root/dev
$bb mount --move /proc /root/proc
exec $bb switch_root /root /sbin/agent-init
"""
_ROOT_INIT = f"""\
#!/bin/busybox sh
bb=/bin/busybox
export PATH=/usr/bin:/bin:/usr/sbin:/sbin
mount_checked() {{
  e2fsck -p "$1" >/tmp/e2fsck.log || [ $? = 1 ] || {{ $bb cat /tmp/e2fsck.log; $bb poweroff -f; }}
  $bb mount -t ext4 -o noatime "$1" "$2" || {{ echo vm.nodisk; $bb poweroff -f; }}
}}
case " $($bb cat /proc/cmdline) " in *" package "*) package=yes;; *) package=;; esac
if [ "$package" ] && [ ! -e {PACKAGED} ]; then
  $bb mount -t tmpfs none /tmp
  mount_checked /dev/vdc /mnt
  $bb mount --move /dev /mnt/dev
  $bb mount --move /proc /mnt/proc
  exec $bb chroot /mnt /sbin/agent-init
fi
$bb mount -t sysfs sys /sys
for each in /run /tmp; do $bb mount -t tmpfs none $each; done
$bb mkdir -p /dev/shm && $bb mount -t tmpfs none /dev/shm
$bb ip link set lo up
$bb ip addr add {ADDRESS}/24 dev eth0
$bb ip link set eth0 up
$bb ip route add default via {HOST}
mount_checked /dev/vdb {HOME}
socat TCP-LISTEN:{PORT},fork,reuseaddr UNIX-CONNECT:{HOME}/state/api.sock 2>/dev/null &
# As systemd does it for MemoryMax= with OOMPolicy=continue: where what is in the group takes more,
# the kernel ends the process in it that stands highest.
confine() {{
  group=/sys/fs/cgroup/wherry-agent.service
  $bb mount -t cgroup2 none /sys/fs/cgroup
  echo +memory > /sys/fs/cgroup/cgroup.subtree_control
  $bb mkdir $group
  while read -r name kib _ && [ "$name" != MemTotal: ]; do :; done < /proc/meminfo
  echo $((kib * 1024 / 100 * ${{1%\\%}})) > $group/memory.max
  into=$group/cgroup.procs
}}
into=/dev/null
export PYTHONPATH={LIB} PYTHONDONTWRITEBYTECODE=1
run="python3 -m wherry_agent run --home {HOME}"
for word in $($bb cat /proc/cmdline); do
  case $word in
    plant=*) export PYTHONPATH=/plants/${{word#plant=}}:$PYTHONPATH;;
    litert) export PYTHONPATH=$PYTHONPATH:{LITERT};;
    package) run="wherry-agent run"; /sbin/package-init & ;;
    memory_max=*) confine "${{word#memory_max=}}" ;;
    others=*) $bb dd if=/dev/zero of=/tmp/others bs=1M count=${{word#others=}} 2>/dev/null ;;
    memory) while :; do $bb grep MemAvailable /proc/meminfo; $bb sleep 1; done & ;;
  esac
done
echo vm.up
while :; do
  (echo 0 > $into; exec $run) &
  echo $! > /run/agent.pid
  wait $!
  echo "vm.ended $?"
  $bb sleep 1
done
"""


class NotRoot(Unavailable):
    """A user who may not make the files of a system."""

    def __str__(self) -> str:
        return "a machine's root is made as root: run `sudo make` with the same target."


def make() -> None:
    """Make what is missing; the root gets the agent of this checkout each time."""
    if os.geteuid() != 0:
        raise NotRoot
    FOLDER.mkdir(parents=True, exist_ok=True)
    root = FOLDER / "root"
    if not (root / "usr/bin/python3").exists():
        _make_root(root)
    if not KERNEL.exists() or not INITRD.exists():
        _make_kernel(FOLDER / "debian-kernel", root)
    _put_agent(root)
    make_ext4(ROOT_IMAGE, root, mib=700)


def make_ext4(image: Path, source: Path, *, mib: int) -> None:
    """Make a file system that holds a copy of the folder."""
    new = image.with_suffix(".new")
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(source), str(new), f"{mib}M"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    new.replace(image)


def _make_kernel(folder: Path, root: Path) -> None:
    """Take Debian's kernel from its archive and keep what a virtual machine needs of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _run("apt-get", "-oAPT::Sandbox::User=root", "download", "-qq", _kernel_package(), at=folder)
    (package,) = folder.glob("*.deb")
    _run("dpkg-deb", "-x", package.name, ".", at=folder)
    (packed,) = (folder / "boot").glob("vmlinuz-*")
    data = packed.read_bytes()
    _write(KERNEL, lzma.LZMADecompressor().decompress(data[data.index(_XZ) :]))
    (modules,) = (folder / "lib/modules").iterdir()
    _write(INITRD, _initrd(modules / "kernel", root / "bin/busybox"))
    shutil.rmtree(folder)


def _kernel_package() -> str:
    said = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], check=True, capture_output=True, text=True
    )
    return next(row.split()[-1] for row in said.stdout.splitlines() if "Depends:" in row)


def _initrd(modules: Path, busybox: Path) -> bytes:
    names = [f"{each.rpartition('/')[2]}.ko" for each in MODULES]
    files = {
        "init": _INITRD_INIT.encode(),
        "bin/busybox": busybox.read_bytes(),
        "modules/order": "".join(f"{name}\n" for name in names).encode(),
    }
    for each, name in zip(MODULES, names, strict=True):
        files[f"modules/{name}"] = (modules / f"{each}.ko").read_bytes()
    folders = ("bin", "modules", "proc", "dev", "root")
    return gzip.compress(archive(folders, files), 1)


def _make_root(root: Path) -> None:
    new = _beside(root)
    less = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")]
    more = "--include=python3,busybox-static,socat"
    _run("mmdebstrap", "--quiet", "--variant=minbase", more, *less, "bookworm", str(new))
    shutil.rmtree(root, ignore_errors=True)
    new.rename(root)


def _put_agent(root: Path) -> None:
    """Put the agent, what it needs and the bugs to plant into the root."""
    library = root / LIB[1:]
    _install(library, LIBRARIES)
    _install(root / LITERT[1:], LITERT_LIBRARIES)
    for ours in ("shared/wherry", "agent/wherry_agent"):
        there = library / Path(ours).name
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(REPOSITORY / ours, there, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in PLANTS.items():
        plant = root / "plants" / name
        plant.mkdir(parents=True, exist_ok=True)
        (plant / "sitecustomize.py").write_text(text)
    init = root / "sbin/agent-init"
    init.write_text(_ROOT_INIT)
    init.chmod(0o755)
    (root / HOME[1:]).mkdir(parents=True, exist_ok=True)
    compiled = (LIB, LITERT, "/usr/lib/python3.11")
    _run("chroot", str(root), "python3", "-m", "compileall", "-q", "-j0", *compiled)


def _install(library: Path, names: Iterable[str]) -> None:
    """Install distributions where there are none yet."""
    if not library.exists():
        pip = ("-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps")
        new = _beside(library)
        target = ("--target", str(new), "--only-binary=:all:", "--python-version", "3.11")
        _run(sys.executable, *pip, *target, "-c", str(REPOSITORY / "constraints.txt"), *names)
        new.rename(library)


def _write(place: Path, data: bytes) -> None:
    """Write a file whole: what is there counts as made."""
    new = place.with_name(f"{place.name}.new")
    new.write_bytes(data)
    new.replace(place)


def _beside(folder: Path) -> Path:
    """Return where a folder is made until it is whole; nothing is there."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    return new


def _run(*command: str, at: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=at)
