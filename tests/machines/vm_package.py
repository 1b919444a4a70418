"""A root in which the agent is a package, and what in it upgrades, repairs and tells of it.

It is `vm_image`'s root with two versions of our package, of which the older is installed. It is
written to, so its disk is a lossy one too. A connection to a port begins an upgrade to whichever
version is not installed. At each boot the package's own repair runs once the agent is ready, as its
unit has it, and then the console says what dpkg thinks of the package.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.machines import deb_builds
from tests.machines.vm_image import FOLDER, HOME, LIB, LITERT, PACKAGED, UPGRADE_PORT, make_ext4

IMAGE, IMAGE_MIB = FOLDER / "package.img", 640
AGENT = "wherry-agent"
SOCKET = f"{HOME}/state/api.sock"
RUNTIME = "usr/lib/wherry-agent-onnx"
ARCHIVES = "/var/cache/apt/archives"
BEGUN, UNPACKED, SEEN = "upgrade.begun", "package.unpacked", "package.seen"

_INIT = f"""\
#!/bin/sh
socat TCP-LISTEN:{UPGRADE_PORT},fork,reuseaddr SYSTEM:/sbin/package-upgrade &
state() {{ dpkg-query --show --showformat '${{db:Status-Status}} ${{Version}}' wherry-agent; }}
found="$(state), $(readlink {LIB}/current) runs"
rm -f {SOCKET}  # As the cut left it.
for _ in $(seq 90); do [ ! -S {SOCKET} ] || break; sleep 1; done
/usr/libexec/wherry-agent/repair >/run/repair.log 2>&1
repaired=$?
audit=$(nice dpkg --audit | tr '\\n"' ' _')
# Debian's small roots leave out what is below /usr/share.
verify=$(nice dpkg --verify wherry-agent | grep -v /usr/share/ | tr '\\n"' ' _')
runs=$(nice wherry-agent --version)
there=$(ls {LIB} | tr '\\n' ' ')
echo "{{\\"event\\": \\"{SEEN}\\", \\"repaired\\": $repaired, \\"audit\\": \\"$audit\\"," \\
  "\\"verify\\": \\"$verify\\", \\"status\\": \\"$(state)\\", \\"runs\\": \\"$runs\\"," \\
  "\\"there\\": \\"$there\\", \\"found\\": \\"$found\\"}}"
[ $repaired = 0 ] || cat /run/repair.log
"""
_UPGRADE = f"""\
#!/bin/sh
exec >/dev/console 2>&1
has=$(dpkg-query --show --showformat '${{Version}}' wherry-agent)
rm -f {ARCHIVES}/*.deb
cp $(ls {PACKAGED}/*.deb | grep -v "_${{has}}_") {ARCHIVES}
busybox sync
echo '{{"event": "{BEGUN}"}}'
# The two halves of `dpkg --install`.
dpkg --force-confold --unpack {ARCHIVES}/*.deb >/run/upgrade.log 2>&1 &&
  echo '{{"event": "{UNPACKED}"}}' &&
  dpkg --force-confold --configure wherry-agent >>/run/upgrade.log 2>&1
ended=$?
echo "{{\\"event\\": \\"upgrade.ended\\", \\"status\\": $ended}}"
[ $ended = 0 ] || cat /run/upgrade.log
kill $(cat /run/agent.pid)
"""


def make(scratch: Path) -> None:
    """Build both versions of this checkout and the root that has the older one."""
    old = deb_builds.built_again(scratch, AGENT)
    new = deb_builds.built_next(scratch, AGENT)
    root = FOLDER / "package"
    shutil.rmtree(root, ignore_errors=True)
    # By a program that knows what a device node is.
    subprocess.run(["cp", "--archive", str(FOLDER / "root"), str(root)], check=True)
    _put_runtime(root)
    (root / PACKAGED[1:]).mkdir()
    for deb in (old, new):
        shutil.copy(deb, root / PACKAGED[1:])
    for name, text in (("package-init", _INIT), ("package-upgrade", _UPGRADE)):
        (root / "sbin" / name).write_text(text)
        (root / "sbin" / name).chmod(0o755)
    install = ["dpkg", "--install", f"{PACKAGED}/{old.name}"]
    subprocess.run(["chroot", str(root), *install], check=True, stdout=subprocess.DEVNULL)
    make_ext4(IMAGE, root, mib=IMAGE_MIB)
    for made in (root, scratch):
        shutil.rmtree(made)


def _put_runtime(root: Path) -> None:
    """Put the runtime where its package does, and take our own code away."""
    shutil.rmtree(root / LITERT[1:])
    library = root / RUNTIME / "here/app"
    library.parent.mkdir(parents=True)
    (root / LIB[1:]).rename(library)
    for ours in ("wherry", "wherry_agent"):
        shutil.rmtree(library / ours)
    (root / RUNTIME / "current").symlink_to("here")
