"""What ARM devices are given from this machine: versions that were built here, and rollouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tests.controller.cli.test_serving import a_card
from tests.machines.nspawn import Wrong, until
from tests.system.sites import REPOSITORY, Site, a_site
from tests.system.tiny import keep, key_of
from tests.system.trained import GATE, done, register
from wherry.blobs import describe
from wherry.bundle import Bundle, open_manifest, seal
from wherry.manifest import Manifest, blobs_of, tolerance_of
from wherry.names import Digest, parse_digest, parse_version_name
from wherry_controller.cli.replies import Device, Rollout, read
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import open_store

Floats = NDArray[np.float32]

MODEL, VERSION, WRONG = "digits", "v1", "wrong"
CHUNK_BYTES = 128 * 1024
ROLLOUT_S, TELL_S = 600.0, 120.0
PROFILE = """\
name = "{name}"
arch = "{machine}"
runtime = "{runtime}"
runtime_floor = "{floor}"
runtime_below = "3"
precisions = ["{precision}"]
python_floor = "3.11"
max_batch = 4
"""
RUNTIMES = Path("build/runtimes")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a device runs: the profile's facts, and the package that brings the runtime."""

    runtime: str
    floor: str
    precision: str
    package: str


ONNX = Kind("onnxruntime", "1.31", "fp32", "wherry-agent-onnx")
LITERT = Kind("litert", "2.3", "int8", "wherry-agent-litert")
TFLITE = Kind("tflite-runtime", "2.14.0", "int8", "wherry-agent-tflite")


@dataclass(frozen=True, slots=True)
class Attested:
    """What a device has signed of a deployment, as the controller tells it."""

    bundle: str
    outputs: str
    runtime: str
    runtime_version: str


class _Device(msgspec.Struct):
    receipts: list[Attested]


@contextmanager
def a_site_that_builds(folder: Path) -> Iterator[Site]:
    """Run a broker and a controller, whose builder finds the runtimes that were made here."""
    folder.mkdir(parents=True)
    with a_site(folder) as site:
        RUNTIMES.mkdir(parents=True, exist_ok=True)
        (site.controller.folder / "runtimes").symlink_to(RUNTIMES.resolve())
        register(site, _a_trained_net(folder / "net"), a_card(VERSION))
        yield site


def build(site: Site, machine: str, kind: Kind) -> str:
    """Build the version for a processor and a runtime; return the profile's name."""
    name = f"{machine}-{kind.runtime}"
    file = site.folder / f"{name}.toml"
    told = {"runtime": kind.runtime, "floor": kind.floor, "precision": kind.precision}
    file.write_text(PROFILE.format(name=name, machine=machine, **told))
    done(site, "profile", "add", file)
    done(site, "build", f"{MODEL}:{VERSION}", "-p", name)
    return name


def token_line(site: Site, device: str, profile: str) -> str:
    """Add a device; return the line that `wherry token create` prints for it."""
    done(site, "device", "add", device, "-p", profile)
    done(site, "group", "set", device, device)
    return done(site, "token", "create", device).splitlines()[-1]


def roll_out(site: Site, device: str, version: str) -> Rollout:
    """Roll a version out to one device; return how that ended."""
    name = f"{device}-{version}"
    gate = site.folder / f"{name}.toml"
    gate.write_text(f"deadline_s = {ROLLOUT_S:.0f}\n{GATE}")
    options = ("--stage", device, "--gate", gate, "--probation-s", "1", "--start")
    done(site, "rollout", "create", name, f"{MODEL}:{version}", *options)
    until(lambda: site.rollout(name).is_over, f"the rollout {name} does not end", ROLLOUT_S)
    return site.rollout(name)


def attested(site: Site, device: str, bundle: Digest) -> Attested:
    """Return the receipt of a bundle; raise `Wrong` where the device has sent none."""

    def found() -> list[Attested]:
        answer = site.controller.remote.get(f"/devices/{device}")
        receipts = msgspec.json.decode(answer, type=_Device).receipts
        return [each for each in receipts if each.bundle == bundle]

    until(lambda: len(found()), f"{device} has attested nothing of its bundle")
    return found()[0]


def wait_until_told(site: Site, device: str, agent: str, bundle: Digest) -> None:
    """Wait until a device tells its controller which agent it runs and what it serves."""

    def is_told() -> bool:
        found = read(Device, site.controller.remote.get(f"/devices/{device}"))
        serves = found.reported is not None and found.reported.slots["default"].active == bundle
        return serves and found.agent == agent

    until(is_told, f"{device} does not tell that agent {agent} serves {bundle[:12]}", TELL_S)


def bundle_for(site: Site, profile: str) -> Bundle:
    """Return what was built for a profile, as the controller keeps it."""
    settings = site.controller.settings
    with closing(open_store(settings.database_url)) as store, store.transaction() as tx:
        (variant,) = [each for each in models.list_bundles(tx) if each.profile == profile]
        digest = parse_digest(variant.bundle)
        envelope = models.get_envelope(tx, digest)
    if envelope is None:
        raise Wrong(f"the controller keeps no envelope of {digest}")
    manifest = open_manifest(envelope, digest)
    blobs = BlobFolder(settings.blob_folder)
    data = {blob.digest: blobs.get(blob.digest) for blob in blobs_of(manifest)}
    return Bundle(digest, envelope, manifest, data)


def add_wrong(site: Site, bundle: Bundle) -> None:
    """Give the controller the same variant with golden outputs that it does not give."""
    golden = bundle.manifest.golden
    (tensor,) = golden.outputs
    strayed = _values(bundle, tensor.blob.digest) + np.float32(
        2 * tolerance_of(golden, tensor.name)
    )
    data = strayed.tobytes()
    blob = describe(data, CHUNK_BYTES)
    manifest = replace(
        bundle.manifest,
        version=parse_version_name(WRONG),
        golden=replace(golden, outputs=(replace(tensor, blob=blob),)),
    )
    kept = {each.digest: bundle.blobs[each.digest] for each in blobs_of(bundle.manifest)}
    named = {each.digest for each in blobs_of(manifest)}
    blobs = {
        digest: part for digest, part in {**kept, blob.digest: data}.items() if digest in named
    }
    keep(site, seal(manifest, blobs, key_of(site)))


def question_of(bundle: Bundle) -> str:
    """Return the golden inputs as `wherry-agent infer` reads them."""
    (tensor,) = bundle.manifest.golden.inputs
    rows = _values(bundle, tensor.blob.digest).reshape(tensor.shape)
    return json.dumps({tensor.name: rows.tolist()})


def check_answer(bundle: Bundle, said: str) -> str:
    """Say how far an answer is from this machine's; raise `Wrong` where it is too far."""
    (tensor,) = bundle.manifest.golden.outputs
    wanted = _values(bundle, tensor.blob.digest)
    (line,) = [line for line in said.splitlines() if line.startswith("{")][-1:]
    given = np.asarray(json.loads(line)["outputs"][0]["data"], np.float32).ravel()
    if given.shape != wanted.shape:
        raise Wrong(f"the answers are {given.size} numbers, the builder's {wanted.size}")
    off = float(np.abs(given - wanted).max())
    allowed = tolerance_of(bundle.manifest.golden, tensor.name)
    if not off <= allowed:  # What is no number strays too.
        raise Wrong(f"the answers stray by {off:.3g} from the builder's, {allowed:.3g} is allowed")
    return f"{off:.2g} off at most, {allowed:.2g} is allowed"


def outputs_digest(manifest: Manifest) -> Digest:
    """Return what a receipt says where a device computes the very bytes of the builder."""
    (tensor,) = manifest.golden.outputs
    return tensor.blob.digest


def _values(bundle: Bundle, digest: Digest) -> Floats:
    return np.frombuffer(bundle.blobs[digest], np.float32)


def _a_trained_net(folder: Path) -> Path:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.controller.builder.digits", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, env=os.environ)
    return folder
