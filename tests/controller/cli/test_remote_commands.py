"""The commands that talk to a controller: what they print, and how they end."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import a_key, a_profile, a_reported, a_telemetry, an_event
from tests.controller.cli.conftest import Ran, Wherry
from tests.controller.scripted import (
    Script,
    a_profile_file,
    builds_all,
    crashes,
    logs,
    refuses,
    write_version,
)
from tests.controller.served import TOKEN, Served
from tests.controller.stores import DIGITS
from wherry import codec
from wherry.messages import TrustReport
from wherry.names import parse_device_id, parse_digest, parse_version_name
from wherry.reasons import Phase, Reason, Status
from wherry.signing import public_pem
from wherry_controller.cli.building import follow
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import connect
from wherry_controller.core.build import BuildMessage, BuildRequest
from wherry_controller.core.fault import BuildReason
from wherry_controller.services.fleet import device_of
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import devices, models, telemetry
from wherry_controller.store.records import Build, Flag

V1 = parse_version_name("v1")

PROFILE = "x86-onnx-fp32"
GATE = "soak_s = 0\nmin_labels = 0\nlatency = { window_requests = 0 }\n"


def ends(ran: Ran, status: Exit, *words: str) -> None:
    """Check the exit status and the one line on stderr: these words, and a next step."""
    assert ran.status == status, ran.err
    (line,) = ran.err.splitlines()
    assert line.startswith("wherry: ") and ":" in line[8:] and line.endswith(".")
    assert all(word in line for word in words), line


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    file = tmp_path / "profile.toml"
    file.write_bytes(a_profile_file(PROFILE))
    return file


@pytest.fixture
def ready(online: Wherry, profile: Path, tmp_path: Path) -> Wherry:
    """A command line whose controller has a built version and two groups of one device."""
    assert online("profile", "add", profile).status == 0
    assert online("model", "add", write_version(tmp_path / "v1")).status == 0
    assert online("build", "digits:v1", "-p", PROFILE).status == 0
    for group, device in (("canary", "pi-1"), ("field", "pi-2")):
        assert online("device", "add", device, "-p", PROFILE).status == 0
        assert online("group", "set", group, device).status == 0
    return online


def create(wherry: Wherry, tmp_path: Path, name: str = "r1", *more: str) -> Ran:
    (tmp_path / "gate.toml").write_text(GATE)
    stages = ("-s", "canary", "-s", "the-rest=field", "--gate", str(tmp_path / "gate.toml"))
    return wherry("rollout", "create", name, "digits:v1", *stages, *more)


def test_without_a_login_a_command_says_how_to_get_one(wherry: Wherry) -> None:
    ends(wherry("model", "list"), Exit.USAGE, "wherry login")


def test_a_login_is_kept_for_its_user_alone(wherry: Wherry, served: Served, tmp_path: Path) -> None:
    assert wherry("login", served.url, "--token", TOKEN).status == 0
    saved = tmp_path / "config" / "wherry" / "login.json"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert wherry("model", "list").status == 0


def test_a_login_with_a_wrong_token_is_not_kept(
    wherry: Wherry, served: Served, tmp_path: Path
) -> None:
    ends(wherry("login", served.url, "--token", "wrong"), Exit.REFUSED, "token")
    assert not (tmp_path / "config").exists()


def test_an_address_or_a_token_that_cannot_be_sent_is_not_understood(
    wherry: Wherry, served: Served
) -> None:
    ends(wherry("login", "http://host:port", "--token", TOKEN), Exit.USAGE, "http://HOST:PORT")
    for token in ("tök", "to\nken"):
        ends(wherry("login", served.url, "--token", token), Exit.USAGE, "`wherry init`")


def test_the_environment_goes_before_the_login(
    online: Wherry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERRY_TOKEN", "wrong")
    ends(online("model", "list"), Exit.REFUSED, "token")


def test_a_controller_that_is_not_there_is_unavailable(
    online: Wherry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERRY_URL", "http://127.0.0.1:1")
    ends(online("model", "list"), Exit.UNAVAILABLE, "wherry serve")


def test_a_registered_version_is_listed_and_shown(online: Wherry, tmp_path: Path) -> None:
    assert "digits:v1" in online("model", "add", write_version(tmp_path / "v1")).out
    assert "digits" in online("model", "list").out
    assert "registered" in online("model", "show", "digits:v1").out


def test_a_file_that_the_card_names_is_missed_before_anything_is_sent(
    online: Wherry, tmp_path: Path
) -> None:
    folder = write_version(tmp_path / "v1")
    (folder / "calibration.npz").unlink()
    ends(online("model", "add", folder), Exit.USAGE, "calibration.npz")
    assert online("model", "list", "--json").items == []


def test_a_version_that_is_taken_is_refused(online: Wherry, tmp_path: Path) -> None:
    folder = write_version(tmp_path / "v1")
    online("model", "add", folder)
    (folder / "weights.pt").write_bytes(b"other")
    ends(online("model", "add", folder), Exit.REFUSED, "digits:v1", "choose another name")


def test_json_is_what_the_api_says_and_nothing_else(online: Wherry, profile: Path) -> None:
    online("profile", "add", profile)
    listed = online("profile", "list", "--json")
    assert listed.err == ""
    assert listed.json["next_cursor"] is None
    assert online("profile", "show", PROFILE, "--json").json["name"] == PROFILE


def test_a_table_that_goes_on_says_how(online: Wherry, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(a_profile_file(name))
        online("profile", "add", tmp_path / name)
    listed = online("profile", "list", "--limit", "1")
    assert "one" in listed.out and "--cursor one" in listed.err
    assert "two" in online("profile", "list", "--cursor", "one").out


def test_a_build_ends_with_its_variants(ready: Wherry) -> None:
    shown = ready("model", "show", "digits:v1").out
    assert PROFILE in shown and "0.9500 / 0.9600" in shown
    assert "succeeded" in ready("model", "builds", "digits").out
    assert PROFILE in ready("bundle", "list").out


@pytest.mark.parametrize("columns", ["80", "100"])
def test_a_table_of_variants_fits_a_terminal(
    ready: Wherry, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    (listed,) = ready("bundle", "list", "--json").items
    digest = str(listed["bundle"])
    monkeypatch.setenv("COLUMNS", columns)
    header, row, measured = ready("build", "digits:v1", "-p", PROFILE).out.splitlines()
    assert header.split()[0] == "profile" and header.split()[-1] == "bundle"
    assert row.split()[0] == PROFILE and row.split()[-1] == digest[:12]
    assert measured == "measured on x86_64, onnxruntime 1.31.1"
    assert ready("bundle", "list").out.splitlines()[1].split()[0] == digest[:12]


def test_a_digest_stays_on_one_line_of_a_narrow_terminal(
    ready: Wherry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = ready("model", "show", "digits:v1", "--json").json
    monkeypatch.setenv("COLUMNS", "60")
    assert str(version["lineage"]) in ready("model", "show", "digits:v1").out


def test_the_facts_of_a_profile_are_told_in_words(ready: Wherry) -> None:
    shown = ready("profile", "show", PROFILE).out
    assert "True" not in shown and "False" not in shown and "None" not in shown
    assert dict(line.split(maxsplit=1) for line in shown.splitlines())["spinning"] == "no"


def test_a_group_of_one_holds_one_device(ready: Wherry) -> None:
    assert ready("group", "set", "canary", "pi-1").out == "group canary holds 1 device.\n"
    assert "holds 2 devices." in ready("group", "set", "both", "pi-1", "pi-2").out


def test_a_build_says_which_profiles_no_device_could_judge(ready: Wherry) -> None:
    ran = ready("build", "digits:v1", "-p", PROFILE, "--measure-on", "canary")
    assert ran.status == 0
    assert f"No device in 'canary' measured for {PROFILE}" in ran.out
    ran = ready("build", "--all", "--measure-on", "canary")
    assert f"No device in 'canary' measured for {PROFILE}" in ran.out


def test_devices_of_an_unknown_place_cannot_judge(ready: Wherry) -> None:
    ran = ready("build", "digits:v1", "-p", PROFILE, "--measure-on", "attic")
    ends(ran, Exit.MISSING, "no group or device 'attic'", "wherry group list")


def test_a_build_may_be_left_alone(ready: Wherry) -> None:
    ordered = ready("build", "digits:v1", "-p", PROFILE, "--detach", "--json")
    assert ordered.json["profiles"] == [PROFILE]


def test_an_unknown_profile_is_missing_and_the_known_are_named(ready: Wherry) -> None:
    ends(ready("build", "digits:v1", "-p", "tpu"), Exit.MISSING, "'tpu'", PROFILE)


@pytest.mark.parametrize(
    "reason",
    [
        BuildReason.CALIBRATION_MISSING,
        BuildReason.FACTORY_NOT_IMPORTABLE,
        BuildReason.STATE_DICT_MISFIT,
        BuildReason.OUTPUT_NOT_FINITE,
    ],
)
def test_a_refused_build_is_a_failed_outcome(
    ready: Wherry, served: Served, reason: BuildReason
) -> None:
    served.builder.script = refuses(reason)
    ends(ready("build", "digits:v1", "-p", PROFILE), Exit.FAILED, "refused", reason.value)
    ends(ready("build", "digits:v1", "-p", PROFILE), Exit.REFUSED, reason.value)


def test_a_crashed_build_is_a_failed_outcome(ready: Wherry, served: Served) -> None:
    served.builder.script = crashes("Segmentation fault")
    ends(ready("build", "digits:v1", "-p", PROFILE), Exit.FAILED, "failed", "Segmentation fault")


def test_all_builds_the_newest_of_each_model_and_tells_of_each(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    ready("model", "add", write_version(tmp_path / "v2", "v2"))
    header, row, *_ = ready("build", "--all").out.splitlines()
    assert header.split()[0] == "profile" and row.split()[0] == PROFILE
    header, *rows = ready("build", "--all", "digits", "--every-version").out.splitlines()
    assert header.split()[:3] == ["version", "profile", "outcome"]
    assert [row.split()[:3] for row in rows] == [
        ["digits:v1", PROFILE, "fp32"],
        ["digits:v2", PROFILE, "fp32"],
    ]
    listed = ready("build", "--all", "--json")
    assert (listed.status, [one["version"] for one in listed.items]) == (0, ["v2"])


def test_one_refused_build_of_several_is_a_failed_outcome(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    ready("model", "add", write_version(tmp_path / "v2", "v2"))
    served.builder.script = refuses_version("v2", BuildReason.BELOW_FLOOR)
    ran = ready("build", "digits:v1", "digits:v2")
    ends(ran, Exit.FAILED, "digits:v2", "below_floor", "wherry model log")
    assert "digits:v1 ended" not in ran.err
    assert [line.split()[2] for line in ran.out.splitlines()[1:]] == ["fp32", "refused"]


def test_a_build_of_nothing_is_not_understood(ready: Wherry) -> None:
    ends(ready("build"), Exit.USAGE, "MODEL:VERSION", "--all")
    ends(ready("build", "digits:v1", "--every-version"), Exit.USAGE, "add --all")


def test_a_version_that_cannot_be_built_does_not_hide_the_builds_before_it(ready: Wherry) -> None:
    ran = ready("build", "digits:v1", "digits:v9", "-p", PROFILE)
    ends(ran, Exit.MISSING, "'digits:v9'", "`wherry model builds`")
    builds = json.loads(ready("model", "builds", "--json").out)["items"]
    assert len([build for build in builds if build["id"] in ran.err]) == 1


def test_an_interrupt_ends_the_waiting_and_not_the_build(ready: Wherry, served: Served) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    waiting = ready("build", "digits:v1", "--detach", "--json").json | {"status": "running"}
    with pytest.raises(Ended, match=r"go on.*wherry model cancel") as ended:
        follow(connect(), [codec.encode(waiting)], interrupt)
    assert str(waiting["id"]) in str(ended.value)
    assert ended.value.code is Exit.UNAVAILABLE


def test_a_build_that_is_over_is_not_canceled(ready: Wherry) -> None:
    build = str(ready("model", "builds", "--json").items[0]["id"])
    ends(ready("model", "cancel", build), Exit.REFUSED, "succeeded already")
    ends(ready("model", "cancel", "nothing"), Exit.MISSING, "wherry model builds")


def test_a_build_that_waits_is_canceled(ready: Wherry, served: Served) -> None:
    build = Build(id="b1", model=DIGITS, version=V1, profiles=(a_profile().name,), created_at=0.0)
    with served.store.transaction() as tx:
        models.save_build(tx, build)
    assert ready("model", "cancel", "b1").out == "build b1 is canceled.\n"
    assert "canceled" in ready("model", "builds").out


def test_the_log_of_a_build_is_printed_without_what_steers_a_terminal(
    ready: Wherry, served: Served
) -> None:
    served.builder.script = logs({PROFILE: "quantized \x1b[2Jwell\n", None: "loaded\n"})
    build = str(ready("build", "digits:v1", "--json").json["id"])
    assert ready("model", "log", build, "-p", PROFILE).out == "quantized [2Jwell\n"
    assert ready("model", "log", build).out == "loaded\n"
    ends(ready("model", "log", build, "-p", "other"), Exit.MISSING, "other")


def test_the_report_of_a_version_is_a_table_a_profile(ready: Wherry, tmp_path: Path) -> None:
    said = ready("model", "report", "digits:v1").out
    for word in (
        PROFILE,
        "2.50x",
        "+0.0040 ±0.0020",
        "chosen: int8-s8s8-1_float",
    ):
        assert word in said, word
    table = said.partition("chosen: ")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert ready("model", "report", "digits:v1", "--json").json["version"] == "v1"
    page = tmp_path / "report.html"
    assert ready("model", "report", "digits:v1", "--html", page).status == 0
    assert page.read_text().startswith("<!doctype html>")
    ends(ready("model", "report", "digits:v9"), Exit.MISSING, "digits:v9")


def refuses_version(version: str, reason: BuildReason) -> Script:
    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        then = refuses(reason) if request.card.version == version else builds_all
        return then(request)

    return script


def test_a_reference_without_a_version_is_not_understood(online: Wherry) -> None:
    ends(online("build", "digits", "-p", PROFILE), Exit.USAGE, "MODEL:VERSION")


def test_a_new_device_gets_a_token_to_enrol_with(ready: Wherry) -> None:
    added = ready("device", "add", "pi-3", "-p", PROFILE)
    assert "wherry token create pi-3" in added.out
    made = ready("token", "create", "pi-3")
    assert "wherry-agent enrol --controller https://localhost:8322 --token wt1." in made.out
    listed = ready("token", "list").out
    assert "pi-3" in listed and "open" in listed and "wt1." not in listed


def test_a_token_may_bring_its_device_along_and_be_revoked(ready: Wherry) -> None:
    made = ready("token", "create", "pi-3", "--profile", PROFILE, "--json").json
    assert ready("token", "revoke", str(made["id"])).status == 0
    assert "revoked" in ready("token", "list").out
    ends(ready("token", "revoke", "none"), Exit.MISSING, "there is no token 'none'")


def test_the_ca_is_shown_for_who_enrols_without_a_token(ready: Wherry) -> None:
    shown = ready("token", "ca").out
    assert str(ready("token", "ca", "--json").json["fingerprint"]) in shown


def test_keys_that_wait_are_listed_approved_and_rejected(ready: Wherry, served: Served) -> None:
    assert "no key waits" in ready("device", "pending").out
    for seed in (1, 2):
        served.stranger_asks(seed)
    first, second = ready("device", "pending", "--json").listed
    shown = ready("device", "pending").out
    assert str(first["fingerprint"]) in shown and "wherry device approve" in shown
    prefix = str(first["fingerprint"])[:16]
    assert ready("device", "approve", prefix, "--device", "pi-1").status == 0
    assert ready("device", "reject", str(second["fingerprint"])).status == 0
    assert "no key waits" in ready("device", "pending").out
    served.stranger_asks(1)
    (certificate,) = ready("device", "certificates", "pi-1", "--json").listed
    assert str(certificate["serial"])[:16] in ready("device", "certificates", "pi-1").out
    assert "pi-1 is revoked (1 certificate)." in ready("device", "revoke", "pi-1").out
    shown = ready("device", "show", "pi-1").out
    assert "certificate  revoked " in shown and "wherry token create pi-1" in shown
    ends(ready("device", "revoke", "pi-2"), Exit.REFUSED, "no identity to revoke")


def test_a_device_that_is_offline_is_shown_so(ready: Wherry) -> None:
    assert "offline" in ready("device", "show", "pi-1").out
    assert ready("device", "list").out.count("offline") == 2


def test_a_device_is_shown_with_its_order_its_trust_and_what_is_wrong(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    create(ready, tmp_path, "r1", "--start")
    trust = TrustReport(epoch=2, root=1, timestamp=7, snapshot=6, targets=3)
    served.device_says("pi-1", replace(a_reported(generation=1), trust=trust))
    with served.store.transaction() as tx:
        device = device_of(tx, parse_device_id("pi-1"))
        devices.save_device(tx, replace(device, flagged=Flag.TWO_LIVE))
    shown = ready("device", "show", "pi-1").out
    assert "generation 1 to " in shown and "it follows 1" in shown
    assert "epoch 2, root 1, timestamp 7, snapshot 6, targets 3" in shown
    assert "two_live: revoke it with `wherry device revoke pi-1`" in shown


def test_what_happened_on_a_device_is_listed(ready: Wherry, served: Served) -> None:
    served.device_tells("pi-1", an_event())
    assert "digits-v1:canary:pi-1 succeeded confirmed" in ready("device", "events", "pi-1").out
    (told,) = json.loads(ready("device", "events", "pi-1", "--json").out)
    assert told["event"]["kind"] == "outcome"


def test_a_removed_device_is_missing(ready: Wherry) -> None:
    assert ready("device", "remove", "pi-2").status == 0
    ends(ready("device", "show", "pi-2"), Exit.MISSING, "'pi-2'")


def test_a_rollout_is_created_started_and_steered(ready: Wherry, tmp_path: Path) -> None:
    assert "draft" in create(ready, tmp_path).out
    for action, status in (
        ("start", "running"),
        ("pause", "paused"),
        ("resume", "running"),
        ("cancel", "canceled"),
    ):
        assert status in ready("rollout", action, "r1").out
    ends(ready("rollout", "start", "r1"), Exit.REFUSED, "canceled")


def test_releases_are_shown_with_rollouts_and_bundles(ready: Wherry, tmp_path: Path) -> None:
    create(ready, tmp_path)
    assert "release  1" in ready("rollout", "status", "r1").out
    assert "default=1" in ready("bundle", "list").out
    ready("rollout", "cancel", "r1")
    words = ("rollout", "create", "r2", "digits:v1", "-s", "field", "--needs")
    ends(ready(*words, "detector"), Exit.USAGE, "write it ALIAS=RELEASE")
    ends(ready(*words, "detector=2"), Exit.REFUSED, "no release 2 of 'detector'")


COMPARING = ("--shadow", "10%", "--shadow-for", "5m", "--min-agreement", "0.9", "--split", "20%")


def test_a_rollout_that_shadows_and_splits_says_so(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    words = (*COMPARING, "--shadow-requests", "50", "--shadow-within", "1h", "--policy", "resource")
    ends(create(ready, tmp_path, "r1", *words), Exit.REFUSED, "pi-1 (unknown)", "wherry-agent 0.5")
    for device in ("pi-1", "pi-2"):
        served.device_says(
            device, replace(a_reported(slots={}), versions={"wherry-agent": "0.5.0"})
        )
    assert create(ready, tmp_path, "r1", *words, "--start").status == 0
    shown = ready("rollout", "status", "r1").out
    assert "policy   resource" in shown
    assert "10% for 300 s and 50 requests, within 3600 s, agreeing on 90% at least" in shown
    assert "split    20%" in shown


def test_both_sides_of_a_rollout_are_shown_and_written(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    create(ready, tmp_path, "r1", "--start")
    (bundle,) = ready("bundle", "list", "--json").items
    said = a_telemetry(bundle=parse_digest(str(bundle["bundle"])))
    with served.store.transaction() as tx:
        telemetry.add_windows(tx, [window_of(parse_device_id("pi-1"), said, served.now)])
    shown = ready("rollout", "sides", "r1").out
    assert "pi-1" in shown and "3 /" in shown and "agreement" not in shown
    assert ready("rollout", "sides", "r1", "--json").json["rollout"] == "r1"
    page = tmp_path / "sides.html"
    assert "is written" in ready("rollout", "sides", "r1", "--html", page).out
    assert "r1: both sides" in page.read_text()


def test_what_a_device_attested_is_shown(ready: Wherry, served: Served, tmp_path: Path) -> None:
    create(ready, tmp_path, "r1", "--start")
    assert "attested" not in ready("device", "show", "pi-1").out
    assert "attested" not in ready("rollout", "status", "r1").out
    served.device_attests("r1:pi-1", p50_ms=1.25)
    assert "1.250 / 2.500" in ready("device", "show", "pi-1").out
    shown = ready("rollout", "status", "r1").out
    assert "attested" in shown and "1.250" in shown


def test_devices_are_listed_with_the_release_of_their_agent(ready: Wherry, served: Served) -> None:
    served.device_says("pi-1", replace(a_reported(), versions={"wherry-agent": "0.5.7"}))
    assert "0.5.7" in ready("device", "list").out


def test_how_to_shadow_needs_how_much(ready: Wherry, tmp_path: Path) -> None:
    ends(create(ready, tmp_path, "r1", "--shadow-for", "5m"), Exit.USAGE, "add --shadow")
    ends(create(ready, tmp_path, "r1", "--shadow", "11"), Exit.USAGE, "write it like 10%")
    ends(create(ready, tmp_path, "r1", "--shadow", "0%"), Exit.USAGE, "share")


def test_the_phase_of_a_device_under_way_is_shown(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    create(ready, tmp_path, "r1", "--start")
    served.device_is_at("r1:pi-1", Phase.SHADOWING)
    assert "shadowing" in ready("rollout", "status", "r1").out


def test_a_gate_that_no_number_could_fail_is_not_understood(ready: Wherry, tmp_path: Path) -> None:
    gate = tmp_path / "nan.toml"
    gate.write_text("largest_accuracy_drop = nan\n")
    words = ("rollout", "create", "r1", "digits:v1", "-s", "canary", "--gate", str(gate))
    ends(ready(*words), Exit.USAGE, "nan.toml", "nan is no number")


def test_a_second_rollout_on_a_group_is_refused(ready: Wherry, tmp_path: Path) -> None:
    create(ready, tmp_path)
    ends(create(ready, tmp_path, "r2"), Exit.REFUSED, "'r1'", "cancel it")


def test_a_rollout_waits_for_a_device_that_is_offline(ready: Wherry, tmp_path: Path) -> None:
    create(ready, tmp_path, "r1", "--start")
    shown = ready("rollout", "status", "r1").out
    assert "stage canary (canary): running" in shown
    assert "stopped by" not in shown and "why" not in shown
    assert "stage the-rest (field): waiting" in shown
    assert "queued" in shown


def test_watching_a_rollout_to_its_success_ends_well(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    create(ready, tmp_path, "r1", "--start")
    for device in ("pi-1", "pi-2"):
        served.device_ends(f"r1:{device}", Status.SUCCEEDED, Reason.CONFIRMED)
    watched = ready("rollout", "watch", "r1", "--json")
    assert (watched.status, watched.json["status"]) == (0, "succeeded")


def test_watching_a_rollout_that_goes_back_is_a_failed_outcome(
    ready: Wherry, served: Served, tmp_path: Path
) -> None:
    create(ready, tmp_path, "r1", "--start")
    served.device_ends("r1:pi-1", Status.REVERTED, Reason.SLOW)
    watched = ready("rollout", "watch", "r1")
    assert watched.status == Exit.FAILED
    assert "rollout r1 is reverted: 1 of 1 devices did not keep it: pi-1 (slow)" in watched.err


def test_a_bundle_is_fetched_inspected_and_verified(ready: Wherry, tmp_path: Path) -> None:
    (listed,) = ready("bundle", "list", "--json").items
    digest = str(listed["bundle"])
    manifest = tmp_path / "manifest.json"
    assert ready("bundle", "get", digest, "-o", manifest).status == 0
    assert digest in ready("bundle", "inspect", manifest).out
    key, other = tmp_path / "bundles.pub.pem", tmp_path / "director.pub.pem"
    for path, seed in ((other, 1), (key, 2)):
        path.write_bytes(public_pem(a_key(seed).public_key()))
    verified = ready("bundle", "verify", manifest, "--key", key, "--blobs", tmp_path / "blobs")
    assert verified.status == 0 and digest in verified.out
    ends(ready("bundle", "verify", manifest, "--key", other), Exit.REFUSED, "signed by")
    manifest.write_bytes(manifest.read_bytes().replace(b'"fp32"', b'"int8"'))
    ends(ready("bundle", "verify", manifest, "--key", key), Exit.REFUSED, "signed by")
