"""What a build is asked and answers.

A build is a child process: it reads one `BuildRequest` and prints one `BuildMessage` a line. A
fault of the version stops the whole build; a fault of a variant stops that profile only. A
refusal is an answer, with its reason and a sentence that ends with what to do next.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from wherry import codec
from wherry.blobs import Blob
from wherry.names import Digest, ProfileName
from wherry.profile import Profile
from wherry_controller.core.card import Card
from wherry_controller.core.choice import DeviceFigures, ProfileReport
from wherry_controller.core.fault import BuildReason


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one build may use; `memory_bytes` is of all its processes together."""

    processes: int = 2
    memory_bytes: int = 8 << 30
    deadline_s: float = 3600.0


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to build: `folder` has the files of `card`; `output` is the folder for the result.

    There stand the unsigned manifest of each variant, `manifest_file` by name, in the folder
    `BLOBS` the blobs of all of them, each named by its digest, and in `LOGS` what each variant's
    process printed. `cache` keeps steps by content for later builds of the same version, and
    `runtimes` holds an environment for each runtime version that was needed so far. `offers` asks
    for every good candidate as a bundle for measuring; `measured` is what devices found of them.
    """

    card: Card
    folder: str
    output: str
    cache: str
    runtimes: str
    lineage: Digest
    profiles: tuple[Profile, ...]
    limits: Limits = Limits()
    offers: bool = False
    measured: tuple[DeviceFigures, ...] = ()
    previous: dict[ProfileName, str] = {}


# What has a hand in a build: other versions of these may make other variants.
TOOLS = (
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-torch",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "pillow",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "skl2onnx",
    "torch",
    "wherry-controller",
)
LARGEST_MESSAGE_BYTES = 16 << 20
BLOBS = "blobs"
PREVIOUS_MANIFEST = "manifest.json"
LOGS = "logs"


def manifest_file(profile: ProfileName) -> str:
    return f"{profile}.manifest.json"


def offer_file(profile: ProfileName, recipe: str) -> str:
    """Return the name of the manifest of a bundle for measuring."""
    return f"{profile}.{recipe}.measuring.json"


def log_file(profile: ProfileName | None) -> str:
    """Return the name of a profile's log, or of the log of what all profiles share."""
    return f"{profile or 'version'}.log"


class BuildStep(StrEnum):
    LOADING = "loading"
    EXPORTING = "exporting"
    QUANTIZING = "quantizing"
    SEARCHING = "searching"
    EVALUATING = "evaluating"
    TIMING = "timing"
    PROVING = "proving"
    PACKING = "packing"


class Progress(msgspec.Struct, frozen=True, tag_field="kind", tag="progress"):
    """`done` of `total` steps are behind; `profile` is None while all of them share the work."""

    step: BuildStep
    done: int
    total: int
    profile: ProfileName | None = None


class Kept(msgspec.Struct, frozen=True, tag_field="kind", tag="kept"):
    """The version's weights as safetensors, among the blobs: the reference that stays with it."""

    weights: Blob


class Offered(msgspec.Struct, frozen=True, tag_field="kind", tag="offered"):
    """A candidate stands in the output folder as the bundle for measuring `bundle`."""

    profile: ProfileName
    recipe: str
    bundle: Digest


class Built(msgspec.Struct, frozen=True, tag_field="kind", tag="built"):
    """A variant stands in the output folder; `bundle` is the digest of its manifest's bytes."""

    profile: ProfileName
    bundle: Digest
    report: ProfileReport


class Refused(msgspec.Struct, frozen=True, tag_field="kind", tag="refused"):
    """The build refuses a profile, or the version if it is None; `detail` is a sentence."""

    reason: BuildReason
    detail: str
    profile: ProfileName | None = None
    report: ProfileReport | None = None


BuildMessage: TypeAlias = Progress | Kept | Offered | Built | Refused


def parse_message(line: bytes) -> BuildMessage:
    """Return the message that a build printed; raise `BadDocument` for any other line."""
    if len(line) > LARGEST_MESSAGE_BYTES:
        raise codec.BadDocument("build message", f"it has more than {LARGEST_MESSAGE_BYTES} bytes")
    try:
        message: BuildMessage = msgspec.json.decode(line, type=BuildMessage)
    except msgspec.DecodeError as error:
        raise codec.BadDocument("build message", str(error)) from error
    return message
