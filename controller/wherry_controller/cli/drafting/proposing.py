"""What a folder's names and files let one propose for a card; every proposal can be refused.

Python files are parsed and never imported.
"""

from __future__ import annotations

import ast
import csv
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from wherry.signature import Datatype, StatePair, Tensor
from wherry_controller.core.card import MetricName, file_of

MODELS = (".onnx", ".pt2", ".pt", ".pth", ".safetensors", ".joblib", ".pkl")
ROWS = (".npz", ".npy", ".csv", ".parquet", ".zip")
EVALUATION = ("eval", "test", "valid", "val")
CALIBRATION = ("calib", "train")
IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
LABELS = ("labels.txt", "classes.txt", "names.txt")
# Names of files that say nothing of what is in them.
GENERIC = ("best", "checkpoint", "final", "last", "model", "net", "weights")
MAKES = re.compile(r"(make|build|create|get)(_|\Z)|(model|net)\Z")
IMAGE_CHANNELS = (1, 3, 4)
LARGEST_CODE_BYTES = 1 << 20


def models_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix in MODELS)


def model_name(file: Path) -> str:
    """Return a name for the model in `file`: the file's, or its folder's where that says more."""
    stem = file.absolute().parent.name if file.stem.lower() in GENERIC else file.stem
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-") or "model"


def rows_in(folder: Path, words: Sequence[str]) -> str | None:
    """Return the file, or the folder of images as a zip, whose name has the foremost word."""
    names = {file.name for file in folder.iterdir() if file.suffix in ROWS}
    names |= {f"{inner.name}.zip" for inner in folder.iterdir() if _holds_images(inner)}
    found = [name for word in words for name in sorted(names) if word in name.lower()]
    return found[0] if found else None


def labels_in(folder: Path) -> str | None:
    return next((name for name in LABELS if (folder / name).is_file()), None)


def folders_in(folder: Path, rows: str) -> tuple[str, ...]:
    """Return the folders that a zip of images will hold, its labels unless they are numbers."""
    inner = (folder / rows).with_suffix("")
    if not rows.endswith(".zip") or not inner.is_dir():
        return ()
    names = sorted(one.name for one in inner.iterdir() if one.is_dir() and one.name[0] != ".")
    return () if all(name.isdecimal() or "," in name for name in names) else tuple(names)


def factory_in(folder: Path) -> str | None:
    """Return the one function in the folder that is called as if it made a net."""
    found = [
        f"{file.name}:{node.name}"
        for file in sorted(folder.glob("*.py"))
        for node in _parsed(file).body
        if isinstance(node, ast.FunctionDef) and MAKES.search(node.name) and not _needs(node)
    ]
    return found[0] if len(found) == 1 else None


def code_beside(folder: Path, named: Sequence[str | None]) -> tuple[str, ...]:
    """Return the modules in the folder that the named functions' files import, however far."""
    first = [file_of(name) for name in named if name is not None and ":" in name]
    seen = dict.fromkeys(first)
    waiting = list(seen)
    while waiting:
        for module in _imported(_parsed(folder / waiting.pop())):
            name = f"{module}.py"
            if name not in seen and (folder / name).is_file():
                seen[name] = None
                waiting.append(name)
    return tuple(name for name in seen if name not in first)


def names_in(file: Path) -> tuple[str, ...]:
    """Return the arrays of an `.npz` or the columns of a `.csv`; () where that cannot be told."""
    try:
        if file.suffix == ".npz":
            with zipfile.ZipFile(file) as archive:
                return tuple(name.removesuffix(".npy") for name in archive.namelist())
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8-sig") as lines:
                return tuple(next(csv.reader(lines), ()))
    except (OSError, ValueError, zipfile.BadZipFile, csv.Error):
        return ()
    return ()


def layout_of(shape: Sequence[int | str]) -> str:
    """Return the layout that a shape with few channels lets one guess, empty where it does not."""
    if len(shape) != 4:
        return ""
    if shape[1] in IMAGE_CHANNELS:
        return "NCHW"
    return "NHWC" if shape[3] in IMAGE_CHANNELS else ""


def task_output(outputs: Sequence[Tensor]) -> Tensor:
    """Return the output that looks most like scores of classes, else the first."""
    scores = [one for one in outputs if _floats(one) and _width(one) > 1 and len(one.shape) == 2]
    return [*scores, *outputs][0]


def metric_for(output: Tensor) -> MetricName | None:
    """Return the metric of a row of scores; of a single value nothing tells what it is."""
    return MetricName.ACCURACY if _floats(output) and _width(output) > 1 else None


def states_among(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[StatePair, ...]:
    """Return outputs that could be given back as an input by type and shape, each input once."""
    if len(inputs) < 2:
        return ()
    found: dict[str, str] = {}
    for given in outputs:
        for taken in inputs:
            same = (given.datatype, given.shape) == (taken.datatype, taken.shape)
            if same and taken.name not in found and given.name not in found.values():
                found[taken.name] = given.name
    return tuple(StatePair(output, name) for name, output in found.items())


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGES for file in folder.glob("*/*"))


def _floats(tensor: Tensor) -> bool:
    return tensor.datatype in (Datatype.FP16, Datatype.FP32, Datatype.FP64)


def _width(tensor: Tensor) -> int:
    last = tensor.shape[-1]
    return last if isinstance(last, int) else 1


def _needs(function: ast.FunctionDef) -> bool:
    """Say whether a function cannot be called without arguments."""
    taken = function.args
    without = len(taken.args) + len(taken.posonlyargs) - len(taken.defaults)
    return without > 0 or any(default is None for default in taken.kw_defaults)


def _parsed(file: Path) -> ast.Module:
    """Return the code in a file, or none where there is no Python that can be read."""
    try:
        if file.stat().st_size <= LARGEST_CODE_BYTES:
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        pass
    return ast.Module([], [])


def _imported(code: ast.Module) -> Iterator[str]:
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
