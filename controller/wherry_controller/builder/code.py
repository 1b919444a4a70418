"""Functions of a version's own code, imported from the file that its card names.

Such code is the user's: it runs in the builder's processes, which are kept from keys and from the
database (`confine`).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.card import file_of, function_of
from wherry_controller.core.fault import BuildReason


def make_importable(folder: Path) -> None:
    """Let modules in `folder` be imported by name, before others as they are for a script."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def load_function(folder: Path, name: str) -> Callable[..., object]:
    """Return the function that `net.py:make_net` names, from the file in `folder`.

    Modules beside the file can be imported by it. Refuses with `FACTORY_NOT_IMPORTABLE`.
    """
    file = folder / file_of(name)
    module_name = f"wherry_version_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        refuse(BuildReason.FACTORY_NOT_IMPORTABLE, f"{file.name} is no Python file")
    make_importable(folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # Dataclasses and torch.export look their module up.
    with refusing(BuildReason.FACTORY_NOT_IMPORTABLE, f"{file.name} does not import"):
        spec.loader.exec_module(module)
    function = getattr(module, function_of(name), None)
    if not callable(function):
        refuse(
            BuildReason.FACTORY_NOT_IMPORTABLE, f"{file.name} has no function {function_of(name)!r}"
        )

    def call(*arguments: object, **keywords: object) -> object:
        return function(*arguments, **keywords)

    return call
