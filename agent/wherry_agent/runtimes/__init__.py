"""The inference runtimes, each behind one Protocol; only a worker imports them."""

from __future__ import annotations

import os

from wherry.profile import Profile, Runtime, accepts_runtime, wanted_runtime
from wherry_agent.runtimes.base import InstalledRuntime, MissingRuntime

# onnxruntime 1.31 would report to its maker, from threads and a database of its own.
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}


def find(profile: Profile) -> InstalledRuntime:
    """Return the runtime that `profile` asks for.

    Raises `MissingRuntime` where it is not installed, or in another version.
    """
    wanted = wanted_runtime(profile)
    try:
        installed = import_runtime(profile.runtime)
    except ImportError as error:
        raise MissingRuntime(wanted, f"none ({error})") from error
    if not accepts_runtime(profile, installed.version):
        raise MissingRuntime(wanted, installed.version)
    return installed


def import_runtime(runtime: Runtime) -> InstalledRuntime:
    """Import a runtime; raise ImportError where it is not installed."""
    if runtime is Runtime.ONNXRUNTIME:
        os.environ.update(QUIET)
        from wherry_agent.runtimes import onnx

        return InstalledRuntime(onnx.version(), onnx.load)
    if runtime is Runtime.LITERT:
        from wherry_agent.runtimes import litert

        return InstalledRuntime(litert.version(), litert.load)
    from wherry_agent.runtimes import tflite

    return InstalledRuntime(tflite.version(), tflite.load)
