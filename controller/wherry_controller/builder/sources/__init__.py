"""A version's trained state, loaded from whatever form it came in.

Each form has a module, imported only when a version needs it: a version that came as ONNX pays
for no torch. What is loaded speaks by the signature's names and in its order of axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from wherry_controller.builder.faults import refuse
from wherry_controller.builder.sources.base import Source
from wherry_controller.core.card import Card, SourceKind
from wherry_controller.core.fault import BuildReason

__all__ = ["Source", "open_source", "weight_bytes"]


def open_source(card: Card, folder: Path) -> Source:
    """Return the version's source, loaded from the files that lie in `folder`.

    Refuses files that cannot be read, that are quantized already, or that do not fit the card.
    """
    match card.source.kind:
        case SourceKind.STATE_DICT:
            from wherry_controller.builder.sources.state_dict import open_state_dict

            return open_state_dict(card, folder)
        case SourceKind.EXPORTED_PROGRAM:
            from wherry_controller.builder.sources.program import open_program

            return open_program(card, folder)
        case SourceKind.TORCHSCRIPT:
            from wherry_controller.builder.sources.script import open_script

            return open_script(card, folder)
        case SourceKind.ONNX:
            from wherry_controller.builder.sources.onnx_source import open_onnx_source

            return open_onnx_source(card, folder)
        case SourceKind.SKLEARN:
            from wherry_controller.builder.sources.estimator import open_estimator

            return open_estimator(card, folder)
        case unknown:
            assert_never(unknown)


def weight_bytes(card: Card, folder: Path) -> int:
    """Return how large the trained state is, by its files: nothing of it is loaded."""
    files = [folder / name for name in (card.source.file, *card.source.external_data)]
    missing = next((file.name for file in files if not file.is_file()), None)
    if missing is not None:
        refuse(BuildReason.SOURCE_UNREADABLE, f"{missing} does not lie beside model.toml")
    return sum(file.stat().st_size for file in files)
