"""What holds of a root with our packages in it: they run, serve, upgrade and leave nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.machines.deb_homes import is_right, the_question
from tests.machines.deb_roots import Failed, Root

HOME = "var/lib/wherry-agent"
CONFFILE = "etc/default/wherry-agent"
_AN_OPERATOR_S = f" c /{CONFFILE}"  # As dpkg marks a configuration file.
ARCHIVES = "var/cache/apt/archives"
AGENT, CONTROLLER = "wherry-agent", "wherry-controller"
PROGRAMS = {CONTROLLER: ("wherry", "wherry_controller")}
MODULES = {
    AGENT: (
        "cryptography.x509",
        "httptools",
        "msgspec",
        "paho.mqtt.client",
        "psutil",
        "tuf.api.metadata",
        "zstandard",
        "wherry_agent.app",
        "wherry_agent.enrolling",
    ),
    "wherry-agent-tflite": ("numpy", "tflite_runtime.interpreter"),
    "wherry-agent-onnx": ("numpy", "numpy.linalg", "onnxruntime"),
    "wherry-agent-litert": ("numpy", "ai_edge_litert.interpreter"),
    CONTROLLER: (
        "pydantic_core",
        "sqlalchemy",
        "wherry_controller.app",
        "wherry_controller.cli.preparing",
        "wherry_controller.deltas.encode",
    ),
}
# The launcher's own environment, for another program than the agent.
_IMPORT = "sed 's/-m {module}/-c/' /usr/bin/{program} > /tmp/python; sh /tmp/python \"$0\""
_ASK = """\
runuser -u wherry-agent -- wherry-agent run >/tmp/agent.log 2>&1 &
for _ in $(seq 150); do
    if wherry-agent infer default --input /tmp/question.json 2>/tmp/refused; then exit 0; fi
    sleep 0.1
done
cat /tmp/refused /tmp/agent.log; exit 1
"""
_SERVE = """\
as() { runuser -u wherry-controller -- "$@"; }
cd /var/lib/wherry-controller
as wherry init . --broker mqtts://localhost:8883 >/tmp/controller.log 2>&1
as wherry serve . >>/tmp/controller.log 2>&1 &
for _ in $(seq 300); do
    if python3 -c "$ASK" 2>/tmp/refused; then exit 0; fi
    sleep 0.1
done
cat /tmp/refused /tmp/controller.log; exit 1
""".replace(
    "$ASK",
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8321); "
    "c.request('GET', '/api/v1/health'); s = c.getresponse().status; "
    "s == 200 or exit(f'its health is {s}')",
)
_HAND_OVER = (
    "from pathlib import Path; from wherry_agent import enrolling; "
    "enrolling.hand_over(Path('/var/lib/wherry-agent'))"
)


def install(root: Root, debs: Sequence[Path]) -> None:
    for deb in debs:
        shutil.copy(deb, root.folder / "tmp")
    root.said("dpkg", "--install", *(f"/tmp/{deb.name}" for deb in debs))


def check_imports(root: Root, package: str) -> None:
    """Raise `Failed` unless every library of a package is found on this Debian's Python."""
    _run_python(root, package, "import " + ", ".join(MODULES[package]))


def give_home(root: Root, home: Path) -> None:
    """Put a home there as root enrols one: its files go to the service's user."""
    target = root.folder / HOME
    for place in target.iterdir():
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    shutil.copytree(home, target, symlinks=True, dirs_exist_ok=True)
    target.chmod(0o700)
    root.said("chown", "wherry-agent:wherry-agent", f"/{HOME}")
    _run_python(root, AGENT, _HAND_OVER)
    owners = root.said("find", f"/{HOME}", "!", "-user", "wherry-agent")
    if owners:
        raise Failed(["wherry-agent", "enrol"], f"files of another user: {owners}")
    (root.folder / "tmp/question.json").write_text(the_question())


def check_controller(root: Root) -> None:
    """Raise `Failed` unless the service's user founds a controller, which then is healthy."""
    root.said("sh", "-c", _SERVE)


def check_answer(root: Root) -> None:
    """Raise `Failed` unless the service's user serves the home's bundle, without any network."""
    said = root.said("sh", "-c", _ASK)
    if not is_right(said):
        raise Failed(["wherry-agent", "infer"], said)


def check_version(root: Root, *allowed: str) -> str:
    said = root.said("wherry-agent", "--version").strip()
    if said not in allowed:
        raise Failed(["wherry-agent", "--version"], f"{said}, and not {' or '.join(allowed)}")
    return said


def check_installed(root: Root, package: str, version: str) -> None:
    """Raise `Failed` unless dpkg has a package whole, and nothing else of it is left.

    The one file that may have changed is the operator's.
    """
    show = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", package]
    said = root.said(*show)
    if said != f"installed {version}":
        raise Failed(show, said)
    there = sorted(place.name for place in (root.folder / "usr/lib" / package).iterdir())
    if there != [version, "current"]:
        raise Failed(["ls", f"/usr/lib/{package}"], ", ".join(there))
    verify = ["dpkg", "--verify", package]
    if other := [line for line in root.said(*verify).splitlines() if _AN_OPERATOR_S not in line]:
        raise Failed(verify, "\n".join(other))


def check_purge(root: Root, packages: Sequence[str], before: set[str]) -> None:
    """Raise `Failed` where purging left a file or an account."""
    root.said("dpkg", "--purge", *reversed(packages))
    left = {place for place in root.files() - before if not place.endswith("-")}
    if left:
        raise Failed(["dpkg", "--purge", *packages], "left " + ", ".join(sorted(left)[:20]))
    accounts = root.said("sh", "-c", "getent passwd; getent group")
    if "wherry" in accounts:
        raise Failed(["dpkg", "--purge", *packages], "left accounts: " + accounts)


def _run_python(root: Root, package: str, text: str) -> str:
    """Return what Python code says that runs as a package's own program does."""
    program, module = PROGRAMS.get(package, ("wherry-agent", "wherry_agent"))
    return root.said("sh", "-c", _IMPORT.format(program=program, module=module), text)
