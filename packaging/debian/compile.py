"""Compiles what stands beside it for the Python that runs this, so that power may fail meanwhile.

No compiled file has its name before its bytes are on the disk: Python takes a torn one for whole.
"""

import os
import py_compile
import sys
from importlib.util import cache_from_source
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.umask(0o022)
parts = []
for folder in (HERE / "app", HERE / f"cp3{sys.version_info.minor}"):
    for source in sorted(folder.rglob("*.py")):
        target = cache_from_source(str(source))
        try:
            py_compile.compile(str(source), f"{target}.part", doraise=True)
        except (py_compile.PyCompileError, OSError):
            continue  # It is read as it is, by who asks for it.
        parts.append(target)
os.sync()
for target in parts:
    Path(f"{target}.part").replace(target)
