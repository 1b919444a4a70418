"""The environments of the peers, below build/bench/peers: made once, and anew for others.

PyTriton's server links the Python of the distribution, so it gets that one; the others get ours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.agent.said import OUTPUT, note

FOLDER = OUTPUT / "peers"
RUNTIME = "onnxruntime==1.31.1"
PACKAGES = {
    "mlserver": "mlserver==1.7.1",
    "kserve": "kserve==0.21.0",
    "pytriton": "nvidia-pytriton==0.7.0",
    "bentoml": "bentoml==1.4.39",
}
DEBIANS = Path("/usr/bin/python3")


def python_of(peer: str) -> Path:
    """Return the Python of a peer's environment, which is made where it is missing."""
    folder, wanted = FOLDER / peer, f"{PACKAGES[peer]} {RUNTIME}"
    python, stamp = folder / "bin/python", folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        note(f"{peer}: installing {wanted}")
        shutil.rmtree(folder, ignore_errors=True)
        base = DEBIANS if peer == "pytriton" else Path(sys.executable)
        # Debian's Python has no pip of its own everywhere, so ours installs.
        _run(str(base), "-m", "venv", "--without-pip", str(folder))
        _run(sys.executable, "-m", "pip", "--python", str(python), "install", *wanted.split())
        stamp.write_text(wanted)
    return python


def _run(*command: str) -> None:
    quiet = ["-qq", "--disable-pip-version-check"] if "pip" in command else []
    subprocess.run([*command, *quiet], check=True)
