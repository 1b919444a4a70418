"""The inference runtimes, each behind one Protocol; only a worker imports them."""

from __future__ import annotations

from wherry.profile import Profile, Runtime, accepts_runtime, wanted_runtime
from wherry_agent.runtimes.base import InstalledRuntime, MissingRuntime


def find(profile: Profile) -> InstalledRuntime:
    """Return the runtime that `profile` asks for.

    Raises `MissingRuntime` where it is not installed, or in another version.
    """
    wanted = wanted_runtime(profile)
    try:
        installed = _import(profile.runtime)
    except ImportError as error:
        raise MissingRuntime(wanted, f"none ({error})") from error
    if installed is None:
        raise MissingRuntime(wanted, "no way to run it in this release")
    if not accepts_runtime(profile, installed.version):
        raise MissingRuntime(wanted, installed.version)
    return installed


def _import(runtime: Runtime) -> InstalledRuntime | None:
    if runtime is Runtime.ONNXRUNTIME:
        from wherry_agent.runtimes import onnx

        return InstalledRuntime(onnx.version(), onnx.load)
    if runtime is Runtime.LITERT:
        from wherry_agent.runtimes import litert

        return InstalledRuntime(litert.version(), litert.load)
    return None
