"""Our programs in a root as our packages lay them out: libraries, launcher, accounts, units."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.machines.nspawn import FOLDER, change_root, say

HERE = Path(__file__).parents[2]
SCRIPTS = HERE / "packaging/debian"
PYTHON = "3.11"
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28")
EXECUTABLE = 0o755


def install_agent(root: Path) -> None:
    """Install the agent with onnxruntime, as `dpkg --install` of its packages does."""
    _fill(root, "wherry-agent", [f"{HERE}/shared[trust]", f"{HERE}/agent[onnx,host]"])
    _launch(root, "wherry-agent", "wherry-agent", "wherry_agent")
    change_root(root, "sh", "-ec", (SCRIPTS / "agent.accounts").read_text())
    for unit in ("wherry-agent.service", "wherry-agent.socket"):
        _add_unit(root, unit)


def install_controller(root: Path) -> None:
    """Install the controller without its builders."""
    _fill(root, "wherry-controller", [f"{HERE}/shared[trust,delta]", f"{HERE}/controller"])
    _launch(root, "wherry-controller", "wherry", "wherry_controller")
    home = "/var/lib/wherry-controller"
    account = ("--system", "--quiet", "--group", "--home", home, "--no-create-home")
    change_root(root, "adduser", *account, "wherry-controller")
    _add_unit(root, "wherry-controller.service")


def _fill(root: Path, package: str, projects: list[str]) -> None:
    """Copy what a package holds for the root's Python; wheels are fetched the first time."""
    kept = FOLDER / "staged" / package
    if not kept.exists():
        say(f"Gathering what {package} holds (once)")
        _gather(kept, projects)
    lib = root / "usr/lib" / package
    shutil.copytree(kept, lib / "staged/app")
    for ours in ("shared/wherry", "agent/wherry_agent", "controller/wherry_controller"):
        if (target := lib / "staged/app" / Path(ours).name).exists():
            shutil.rmtree(target)
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(HERE / ours, target, ignore=ignored)
    (lib / "current").symlink_to("staged")
    change_root(root, "python3", "-m", "compileall", "-q", f"/usr/lib/{package}/staged")


def _gather(target: Path, projects: list[str]) -> None:
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    wheels = FOLDER / "staged/wheels"
    built = [project.partition("[")[0] for project in projects]
    making = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, *making, *built], check=True)
    names = [_wheel_of(wheels, project) for project in projects]
    pins = ["--constraint", str(HERE / "constraints.txt"), "--python-version", PYTHON]
    platforms = [f"--platform={each}_x86_64" for each in PLATFORMS]
    options = ["--target", str(part), "--only-binary=:all:", "--no-compile", *pins, *platforms]
    subprocess.run([*pip, "install", *options, *names], check=True)
    part.rename(target)


def _wheel_of(wheels: Path, project: str) -> str:
    """Return a project's wheel with the extras that were asked for."""
    place, _, extras = project.partition("[")
    name = {"shared": "wherry", "agent": "wherry_agent", "controller": "wherry_controller"}
    (wheel,) = wheels.glob(f"{name[Path(place).name]}-*.whl")
    return f"{wheel}[{extras}" if extras else str(wheel)


def _launch(root: Path, package: str, program: str, module: str) -> None:
    text = (SCRIPTS / "launcher").read_text()
    target = root / "usr/bin" / program
    target.write_text(text.replace("@PACKAGES@", package).replace("@MODULE@", module))
    target.chmod(EXECUTABLE)


def _add_unit(root: Path, unit: str) -> None:
    shutil.copy(HERE / "systemd" / unit, root / "lib/systemd/system" / unit)
