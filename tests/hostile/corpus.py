"""Hostile bundles, each signed and named as it should be: only its model is not what it claims.

`written()` are those that somebody thought of, with the reason that each is to be refused for.
`damaged(count)` are sound models that were damaged by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from tests.agent.bundles import KEY, a_bundle, a_litert_bundle
from tests.hostile import models, mutants
from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.manifest import MODEL_FILE
from wherry.reasons import Reason

BROKEN = frozenset({Reason.LOAD_FAILED})
BOMB = frozenset({Reason.OVER_MEMORY})
ENDLESS = frozenset({Reason.OVER_CPU, Reason.LOAD_TIMEOUT})
WRONG = frozenset({Reason.GOLDEN_MISMATCH})
NOT_FINITE = frozenset({Reason.NOT_FINITE})
ANY = frozenset({*BROKEN, *BOMB, *ENDLESS, *WRONG, *NOT_FINITE})

ELSEWHERE = (
    "/etc/passwd",
    "../../../../../../etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "/dev/urandom",
    "no/such/file",
    ".",
    "",
)


@dataclass(frozen=True, slots=True)
class Hostile:
    """A bundle that must not serve; it is refused for one of `reasons`."""

    name: str
    bundle: Bundle
    reasons: frozenset[Reason]


def written() -> Iterator[Hostile]:
    """Yield what somebody thought of."""
    yield from _broken()
    yield from _altered()
    yield _onnx("endless loop", models.endless_loop(), ENDLESS)
    yield _onnx("loops in loops", models.nested_loops(), ENDLESS)
    yield _onnx("50,000 nodes", models.chain(50_000), ENDLESS)
    yield _onnx("10 GB constant", models.memory_bomb(), BOMB)
    yield _onnx("2.5 GB a row", models.growing_bomb(), BOMB)
    yield _onnx("negative shape", models.impossible_shape(), BROKEN)
    yield _onnx("shape that overflows", models.overflowing_shape(), BROKEN | BOMB)
    yield _onnx("NaN", models.not_a_number(), NOT_FINITE)
    yield _onnx("infinity", models.infinite(), NOT_FINITE)
    yield Hostile("other classes", a_bundle(golden_error=1.0), WRONG)
    for location in ELSEWHERE:
        data = models.external_data(location)
        yield _onnx(f"data of {location!r}", data, BROKEN | BOMB)


def damaged(count: int, *, seed: int = 5) -> Iterator[Hostile]:
    """Yield about `count` damaged models, half of them ONNX and half of them LiteRT."""
    winding, lite, each = mutants.a_winding_model(), mutants.a_lite_model(), count // 6
    kinds = (
        ("flipped onnx", _onnx, mutants.flipped(winding, each, seed=seed)),
        ("cut onnx", _onnx, mutants.cut(winding, each, seed=seed)),
        ("altered onnx", _onnx, mutants.altered_graphs(winding, each, seed=seed)),
        ("flipped tflite", _lite, mutants.flipped(lite, each, seed=seed)),
        ("cut tflite", _lite, mutants.cut(lite, each, seed=seed)),
        ("altered tflite", _lite, mutants.altered_tables(lite, each, seed=seed)),
    )
    for name, wrap, files in kinds:
        for number, data in enumerate(files):
            yield wrap(f"{name} {number}", data, ANY)


def with_model(bundle: Bundle, data: bytes) -> Bundle:
    """Return a bundle like `bundle`, but for its model file."""
    model, old = describe(data, 1024), bundle.manifest.files[MODEL_FILE]
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, MODEL_FILE: model})
    blobs = {digest: held for digest, held in bundle.blobs.items() if digest != old.digest}
    return seal(manifest, blobs | {model.digest: data}, KEY)


def _broken() -> Iterator[Hostile]:
    """Yield files that are none of their kind."""
    sound = mutants.a_winding_model()
    opset, ir = models.a_model(opset=99), models.a_model(ir_version=99)
    yield _onnx("one byte", b"\x00", BROKEN)
    yield _onnx("text", b"<html>404 not found</html>" * 50, BROKEN)
    yield _onnx("half a file", sound[: len(sound) // 2], BROKEN)
    yield _onnx("opset of the future", opset, BROKEN)
    yield _onnx("IR of the future", ir, BROKEN)
    yield _onnx("unknown operator", models.unknown_operator(), BROKEN)
    yield _onnx("operator of another domain", models.unknown_operator("evil.example"), BROKEN)
    yield _onnx("cycle", models.cycle(), BROKEN)
    yield _onnx("made twice", models.twice_made(), BROKEN)
    yield _onnx("wrong type", models.wrong_type(), BROKEN)
    yield _onnx("wrong rank", models.wrong_rank(), BROKEN)
    yield _onnx("other names", models.other_names(), BROKEN)
    lite = mutants.a_lite_model()
    yield _lite("one byte of tflite", b"\x00", BROKEN)
    yield _lite("tflite's mark alone", b"\x1c\x00\x00\x00TFL3", BROKEN)
    yield _lite("half a tflite file", lite[: len(lite) // 2], BROKEN)
    yield _lite("onnx for tflite", sound, BROKEN)
    yield _onnx("tflite for onnx", lite, BROKEN)


def _altered() -> Iterator[Hostile]:
    """Yield a bundle whose files are not those that its manifest names."""
    bundle = a_bundle()
    model = bundle.manifest.files[MODEL_FILE].digest
    for name, digest in (
        ("model", model),
        ("golden input", bundle.manifest.golden.inputs[0].blob.digest),
        ("golden output", bundle.manifest.golden.outputs[0].blob.digest),
    ):
        altered = bytearray(bundle.blobs[digest])
        altered[len(altered) // 2] ^= 1
        blobs = {**bundle.blobs, digest: bytes(altered)}
        yield Hostile(
            f"altered {name}",
            Bundle(bundle.digest, bundle.envelope, bundle.manifest, blobs),
            frozenset({Reason.WRONG_BYTES}),
        )


def _onnx(name: str, data: bytes, reasons: frozenset[Reason]) -> Hostile:
    return Hostile(name, with_model(a_bundle(), data), reasons)


def _lite(name: str, data: bytes, reasons: frozenset[Reason]) -> Hostile:
    return Hostile(name, with_model(a_litert_bundle(), data), reasons)
