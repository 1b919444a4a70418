"""The HTTP API over a real server: what each address answers, and how it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from tests.builders import (
    A_TIME,
    a_device_id,
    a_key,
    a_profile,
    a_reported,
    a_telemetry,
    a_trial_result,
    an_event,
)
from tests.controller.scripted import (
    FILES,
    a_card,
    a_profile_file,
    builds_all,
    crashes,
    keeps,
    logs,
    refuses,
)
from tests.controller.served import Served
from wherry import codec
from wherry.blobs import digest_of
from wherry.bundle import open_signed_manifest
from wherry.enrolment import parse_token
from wherry.messages import Receipt
from wherry.names import parse_device_id, parse_digest
from wherry.reasons import Phase, Reason, Status
from wherry.signing import keyring
from wherry.trust.making import DAY_S
from wherry_controller.core.build import BuildMessage, BuildRequest, BuildStep, Progress
from wherry_controller.core.fault import BuildReason
from wherry_controller.services.fleet import device_of
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import devices, models, telemetry
from wherry_controller.store.records import Flag, TrialRecord
from wherry_controller.store.trials import save_trials

PROFILE = "x86-onnx-fp32"
GATE = {"soak_s": 0, "min_labels": 0, "latency": {"window_requests": 0}}


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return status and reason of a problem document whose sentence has a next step."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == answer.status_code
    assert ":" in said["detail"] and said["detail"].endswith(".")
    return said["status"], said["reason"]


def register(api: httpx.Client, version: str = "v1", **changes: bytes) -> httpx.Response:
    named = {name: changes.get(name.partition(".")[0], data) for name, data in FILES.items()}
    parts = [("files", (name, data)) for name, data in named.items()]
    return api.post("/versions", files=[("card", ("model.toml", a_card(version))), *parts])


def declare(api: httpx.Client, profile: str = PROFILE) -> httpx.Response:
    toml = {"Content-Type": "application/toml"}
    return api.put(f"/profiles/{profile}", content=a_profile_file(profile), headers=toml)


def order(api: httpx.Client, *profiles: str, version: str = "v1") -> httpx.Response:
    wish = {"model": "digits", "version": version, "profiles": profiles or (PROFILE,)}
    return api.post("/builds", json=wish)


def add(api: httpx.Client, device: str) -> httpx.Response:
    return api.post("/devices", json={"id": device, "profile": PROFILE})


def create(api: httpx.Client, name: str = "r1", version: str = "v1") -> httpx.Response:
    stages = [{"name": group, "group": group} for group in ("canary", "field")]
    wish = {"name": name, "model": "digits", "version": version, "stages": stages, "gate": GATE}
    return api.post("/rollouts", json=wish)


@pytest.fixture
def ready(api: httpx.Client) -> httpx.Client:
    """The API of a controller with a built version and two groups of one device."""
    answers = [register(api), declare(api), order(api)]
    for group, device in (("canary", "pi-1"), ("field", "pi-2")):
        answers += [add(api, device), api.put(f"/groups/{group}", json={"devices": [device]})]
    assert all(answer.is_success for answer in answers)
    return api


def test_health_needs_no_token(served: Served) -> None:
    with served.client("wrong") as stranger:
        assert stranger.get("/health").json()["status"] == "ok"


def test_every_other_operation_needs_a_token(served: Served) -> None:
    with served.client("wrong") as stranger:
        paths = stranger.get("/openapi.json").json()["paths"]
        operations = [(method, path) for path, methods in paths.items() for method in methods]
        assert len(operations) > 25
        for method, path in operations:
            if path != "/api/v1/health":
                answer = stranger.request(method, served.url + path)
                assert refusal(answer) == (401, "not_logged_in"), f"{method} {path}"


def test_the_description_is_complete(served: Served) -> None:
    with served.client() as client:
        described = client.get("/openapi.json").json()
    operations = [one for methods in described["paths"].values() for one in methods.values()]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names)
    assert all(one["tags"] and one["description"] for one in operations)
    assert {tag for one in operations for tag in one["tags"]} == {
        tag["name"] for tag in described["tags"]
    }
    guarded = [one for one in operations if one["operationId"] != "get_health"]
    assert all(one["security"] and "401" in one["responses"] for one in guarded)
    assert "Problem" in described["components"]["schemas"]


def test_an_unknown_address_is_a_problem(api: httpx.Client) -> None:
    assert refusal(api.get("/boats")) == (404, "not_found")


def test_a_registered_version_is_shown_with_its_card_and_files(api: httpx.Client) -> None:
    assert register(api).status_code == 201
    shown = api.get("/models/digits/versions/v1").json()
    assert shown["card"]["task"]["claimed"] == 0.96
    assert {file["name"] for file in shown["files"]} == set(FILES)
    assert api.get("/models").json()["items"] == [
        {"name": "digits", "created_at": 1000.0, "versions": ["v1"]}
    ]


def test_a_version_without_its_calibration_file_is_refused(api: httpx.Client) -> None:
    parts = [("files", (name, data)) for name, data in FILES.items() if name != "calibration.npz"]
    answer = api.post("/versions", files=[("card", ("model.toml", a_card())), *parts])
    assert refusal(answer) == (422, "missing_files")
    assert "calibration.npz" in answer.json()["detail"]


def test_a_card_that_is_none_is_refused(api: httpx.Client) -> None:
    parts = [("card", ("model.toml", b"model = 7")), ("files", ("net.py", b""))]
    assert refusal(api.post("/versions", files=parts)) == (422, "bad_file")


def test_other_bytes_under_a_name_that_is_taken_are_refused(api: httpx.Client) -> None:
    register(api)
    assert refusal(register(api, weights=b"other")) == (409, "taken")


def test_a_profile_is_the_same_as_toml_and_as_json(api: httpx.Client) -> None:
    document = declare(api).json()
    assert api.get(f"/profiles/{PROFILE}").json() == document
    assert api.put(f"/profiles/{PROFILE}", json=document).json() == document


def test_a_profile_with_an_unknown_key_is_refused(api: httpx.Client) -> None:
    toml = a_profile_file() + b"treads = 2\n"
    answer = api.put(f"/profiles/{PROFILE}", content=toml)
    assert refusal(answer) == (422, "bad_file")
    assert "treads" in answer.json()["detail"]


def test_a_profile_has_one_name(api: httpx.Client) -> None:
    answer = api.put("/profiles/other", content=a_profile_file())
    assert refusal(answer) == (422, "other_name")


def test_a_build_leaves_bundles_whose_manifests_devices_can_trust(ready: httpx.Client) -> None:
    (bundle,) = ready.get("/bundles").json()["items"]
    envelope = ready.get(f"/bundles/{bundle['bundle']}/manifest").content
    trusted = keyring(a_key(2).public_key())
    manifest = open_signed_manifest(envelope, trusted, parse_digest(bundle["bundle"]))
    assert manifest.profile.name == bundle["profile"] == PROFILE


def test_a_build_is_followed_at_its_location(api: httpx.Client) -> None:
    register(api)
    declare(api)
    answer = order(api)
    assert answer.status_code == 202
    shown = api.get(f"/builds/{answer.json()['id']}").json()
    assert answer.headers["Location"] == f"/api/v1/builds/{shown['id']}"
    assert (shown["status"], len(shown["variants"])) == ("succeeded", 1)


def test_an_unknown_profile_is_not_found_and_the_known_ones_are_named(api: httpx.Client) -> None:
    register(api)
    declare(api)
    answer = order(api, "tpu")
    assert refusal(answer) == (404, "unknown_profile")
    assert PROFILE in answer.json()["detail"]


@pytest.mark.parametrize(
    "reason",
    [
        BuildReason.CALIBRATION_MISSING,
        BuildReason.FACTORY_NOT_IMPORTABLE,
        BuildReason.STATE_DICT_MISFIT,
        BuildReason.OUTPUT_NOT_FINITE,
    ],
)
def test_a_refused_build_says_why(api: httpx.Client, served: Served, reason: BuildReason) -> None:
    register(api)
    declare(api)
    served.builder.script = refuses(reason)
    shown = api.get(f"/builds/{order(api).json()['id']}").json()
    assert (shown["status"], shown["reason"]) == ("refused", reason.value)
    assert shown["detail"].endswith(".")
    assert refusal(order(api)) == (409, "refused_version")


def test_a_crashed_build_says_the_last_line(api: httpx.Client, served: Served) -> None:
    register(api)
    declare(api)
    served.builder.script = crashes("Segmentation fault")
    shown = api.get(f"/builds/{order(api).json()['id']}").json()
    assert (shown["status"], shown["reason"]) == ("failed", "build_crashed")
    assert "Segmentation fault" in shown["detail"]


def test_a_new_device_gets_a_token_that_is_told_once(api: httpx.Client) -> None:
    declare(api)
    answer = add(api, "pi-1")
    assert (answer.status_code, answer.headers["Location"]) == (201, "/api/v1/devices/pi-1")
    given = api.post("/tokens", json={"device": "pi-1"})
    assert given.status_code == 201
    token = given.json()
    assert parse_token(token["token"]).ca == api.get("/authority").json()["fingerprint"]
    assert token["expires_at"] == token["created_at"] + 3600
    (listed,) = api.get("/tokens").json()
    assert listed == {name: token[name] for name in listed}
    assert "token" not in listed


def test_a_token_adds_a_device_whose_profile_is_named(api: httpx.Client) -> None:
    declare(api)
    assert refusal(api.post("/tokens", json={"device": "pi-1"})) == (404, "unknown_device")
    wish = {"device": "pi-1", "profile": PROFILE}
    assert api.post("/tokens", json=wish).status_code == 201
    assert api.post("/tokens", json=wish).status_code == 201
    assert len(api.get("/devices").json()["items"]) == 1


def test_a_token_lasts_as_long_as_one_may(api: httpx.Client) -> None:
    declare(api)
    wish = {"device": "pi-1", "profile": PROFILE, "lifetime_s": 40 * 86_400}
    assert refusal(api.post("/tokens", json=wish)) == (422, "bad_lifetime")


def test_a_token_is_revoked_by_its_name(api: httpx.Client) -> None:
    declare(api)
    token = api.post("/tokens", json={"device": "pi-1", "profile": PROFILE}).json()
    assert api.delete(f"/tokens/{token['id']}").status_code == 204
    assert api.get("/tokens").json()[0]["revoked_at"] is not None
    assert refusal(api.delete("/tokens/none")) == (404, "unknown_enrolment_token")


def test_a_device_without_an_identity_has_none_to_revoke(ready: httpx.Client) -> None:
    assert refusal(ready.post("/devices/pi-1/revocation")) == (409, "never_enrolled")
    assert ready.get("/devices/pi-1/certificates").json() == []


def test_a_key_that_nobody_asked_with_is_neither_approved_nor_rejected(
    ready: httpx.Client,
) -> None:
    assert ready.get("/pending").json() == []
    approval = ready.post(f"/pending/{'a' * 64}/approval", json={"device": "pi-1"})
    assert refusal(approval) == (404, "unknown_pending_key")
    assert refusal(ready.delete(f"/pending/{'a' * 64}")) == (404, "unknown_pending_key")


def test_health_warns_before_the_list_of_revoked_certificates_ends(
    api: httpx.Client, served: Served
) -> None:
    assert api.get("/health").json()["warnings"] == []
    served.now += 24 * 86_400
    (warning,) = api.get("/health").json()["warnings"]
    assert "every device is locked out" in warning
    served.identities.tick(served.now)
    assert api.get("/health").json()["warnings"] == []


@pytest.mark.parametrize("role", ["root", "targets"])
def test_health_warns_before_what_is_signed_offline_ends(
    api: httpx.Client, served: Served, role: str
) -> None:
    served.now = A_TIME + 340 * DAY_S
    served.identities.tick(served.now)
    warnings = api.get("/health").json()["warnings"]
    assert [one for one in warnings if one.startswith(f"{role} ends within a month")]
    served.now = A_TIME + 330 * DAY_S
    served.identities.tick(served.now)
    assert api.get("/health").json()["warnings"] == []


def test_a_device_is_added_once_and_of_a_known_profile(api: httpx.Client) -> None:
    assert refusal(add(api, "pi-1")) == (404, "unknown_profile")
    declare(api)
    add(api, "pi-1")
    assert refusal(add(api, "pi-1")) == (409, "taken")


def test_a_name_that_is_none_is_refused(api: httpx.Client) -> None:
    assert refusal(add(api, "Pi 1")) == (422, "bad_name")


@pytest.mark.parametrize(
    "gate",
    [
        {"largest_accuracy_drop": 5},
        {"largest_failed_share": 1.5},
        {"largest_silent_share": -0.1},
        {"min_devices": -1},
        {"min_labels": -1},
        {"soak_s": -1},
        {"deadline_s": 0},
        {"latency": {"window_requests": -1}},
        {"latency": {"window_requests": 500, "ratio": 0.5}},
        {"latency": {"window_requests": 500, "difference_ms": -1}},
        {"latency": {"window_requests": 500, "successive_windows": 0}},
        {"latency": {"window_requests": 500, "windows": 3}},
    ],
)
def test_a_gate_that_judges_nothing_is_refused(
    ready: httpx.Client, gate: dict[str, object]
) -> None:
    stages = [{"name": "canary", "group": "canary"}]
    wish = {"name": "r1", "model": "digits", "version": "v1", "stages": stages, "gate": gate}
    status, reason = refusal(ready.post("/rollouts", json=wish))
    assert status in (400, 422) and reason == "bad_document"
    assert ready.get("/rollouts").json()["items"] == []


def test_a_device_lists_what_happened_on_it_the_newest_first(
    ready: httpx.Client, served: Served
) -> None:
    assert ready.get("/devices/pi-1/events").json() == []
    for seq in (1, 2):
        served.device_tells("pi-1", an_event(seq))
    told = ready.get("/devices/pi-1/events").json()
    assert [one["event"]["seq"] for one in told] == [2, 1]
    assert told[0]["event"]["deployment"]["status"] == "succeeded"


def test_a_device_shows_what_it_reported(ready: httpx.Client, served: Served) -> None:
    assert ready.get("/devices/pi-1").json()["reported"] is None
    served.device_says("pi-1", a_reported())
    shown = ready.get("/devices/pi-1").json()
    assert shown["online"]
    assert shown["reported"]["format"] == "wherry.reported/1"


def test_a_device_shows_how_far_its_order_and_its_identity_are(
    ready: httpx.Client, served: Served
) -> None:
    before = ready.get("/devices/pi-1").json()
    assert (before["generation"], before["order_ends_at"]) == (0, None)
    assert (before["epoch"], before["flagged"]) == (0, None)
    create(ready)
    ready.post("/rollouts/r1/start")
    with served.store.transaction() as tx:
        device = device_of(tx, parse_device_id("pi-1"))
        devices.save_device(tx, replace(device, epoch=2, flagged=Flag.TWO_LIVE))
    shown = ready.get("/devices/pi-1").json()
    assert (shown["generation"], shown["order_ends_at"]) == (1, served.now + 90 * 86_400)
    assert (shown["epoch"], shown["flagged"]) == (2, "two_live")


def test_a_rollout_and_its_bundles_show_the_release(ready: httpx.Client) -> None:
    (bundle,) = ready.get("/bundles").json()["items"]
    assert bundle["releases"] == {}
    assert create(ready).json()["release"] == 1
    (bundle,) = ready.get("/bundles").json()["items"]
    assert bundle["releases"] == {"default": 1}
    assert ready.get("/rollouts").json()["items"][0]["release"] == 1


def test_a_rollout_says_what_its_release_needs(ready: httpx.Client) -> None:
    stages = [{"name": "canary", "group": "canary"}]
    wish = {"name": "r1", "model": "digits", "version": "v1", "stages": stages}
    refused = ready.post("/rollouts", json={**wish, "needs": {"detector": 1}})
    assert refusal(refused) == (409, "needs_nothing")
    ready.post("/rollouts", json={**wish, "name": "r0", "alias": "detector"})
    ready.post("/rollouts/r0/cancel")
    made = ready.post("/rollouts", json={**wish, "needs": {"detector": 1}})
    assert made.json()["needs"] == {"detector": 1}


def test_a_removed_device_is_gone(ready: httpx.Client) -> None:
    assert ready.delete("/devices/pi-2").status_code == 204
    assert refusal(ready.get("/devices/pi-2")) == (404, "unknown_device")


def test_a_device_without_telemetry_has_no_summaries(ready: httpx.Client) -> None:
    assert ready.get("/devices/pi-1/telemetry").json()["summaries"] == []


def test_the_windows_of_a_device_are_added_up(ready: httpx.Client, served: Served) -> None:
    with served.store.transaction() as tx:
        pi_1 = parse_device_id("pi-1")
        windows = [window_of(pi_1, a_telemetry(seq=seq), 1000.0 + seq) for seq in (1, 2)]
        telemetry.add_windows(tx, windows)
    shown = ready.get("/devices/pi-1/telemetry").json()
    (summary,) = shown["summaries"]
    assert (summary["windows"], summary["since"], summary["until"]) == (2, 1001.0, 1002.0)
    assert summary["requests"] == 2 * a_telemetry().requests
    feedback = a_telemetry().feedback
    assert summary["accuracy"] == pytest.approx(feedback.right / feedback.labelled)
    assert summary["latency_p50_ms"] <= summary["latency_p99_ms"]
    assert shown["host"]


def test_the_broker_is_shown_with_what_went_over_it(api: httpx.Client) -> None:
    assert api.get("/broker").json() == {
        "url": "mqtt://127.0.0.1:1883",
        "sent_bytes": 0,
        "received_bytes": 0,
    }


def test_a_group_holds_only_devices_that_there_are(ready: httpx.Client) -> None:
    answer = ready.put("/groups/canary", json={"devices": ["pi-9"]})
    assert refusal(answer) == (404, "unknown_device")
    assert ready.get("/groups/canary").json()["devices"] == ["pi-1"]


def test_lists_come_a_page_at_a_time(ready: httpx.Client) -> None:
    first = ready.get("/devices", params={"limit": 1}).json()
    second = ready.get("/devices", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [one["id"] for one in first["items"] + second["items"]] == ["pi-1", "pi-2"]
    assert second["next_cursor"] is None
    answer = ready.get("/devices", params={"cursor": "nothing"})
    assert refusal(answer) == (422, "bad_cursor")


def test_a_rollout_goes_from_stage_to_stage(ready: httpx.Client, served: Served) -> None:
    assert create(ready).json()["status"] == "draft"
    assert ready.post("/rollouts/r1/start").json()["status"] == "running"
    served.device_ends("r1:pi-1", Status.SUCCEEDED, Reason.CONFIRMED)
    canary, field = ready.get("/rollouts/r1").json()["stages"]
    assert (canary["status"], field["status"]) == ("passed", "running")
    assert canary["verdict"]["findings"][0]["device"] == "pi-1"
    served.device_ends("r1:pi-2", Status.SUCCEEDED, Reason.CONFIRMED)
    assert ready.get("/rollouts/r1").json()["status"] == "succeeded"
    (deployment,) = ready.get("/devices/pi-2").json()["deployments"]
    assert (deployment["status"], deployment["reason"]) == ("succeeded", "confirmed")


def test_both_sides_of_a_rollout_are_shown_by_profile_and_by_device(
    ready: httpx.Client, served: Served
) -> None:
    create(ready)
    assert ready.get("/rollouts/r1/sides").json()["devices"] == []
    ready.post("/rollouts/r1/start")
    (bundle,) = ready.get("/bundles").json()["items"]
    said = a_telemetry(bundle=parse_digest(bundle["bundle"]))
    with served.store.transaction() as tx:
        telemetry.add_windows(tx, [window_of(parse_device_id("pi-1"), said, served.now)])
    shown = ready.get("/rollouts/r1/sides").json()
    (device,) = shown["devices"]
    assert (device["device"], device["before"]) == ("pi-1", None)
    assert device["sides"]["candidate"]["requests"] == said.requests
    assert shown["profiles"] == {PROFILE: device["sides"]}
    page = ready.get("/rollouts/r1/sides.html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert page.text == ready.get("/rollouts/r1/sides", headers={"Accept": "text/html"}).text
    assert refusal(ready.get("/rollouts/none/sides")) == (404, "unknown_rollout")


def test_what_a_device_attested_is_shown_as_it_was_signed(
    ready: httpx.Client, served: Served
) -> None:
    create(ready)
    ready.post("/rollouts/r1/start")
    assert ready.get("/devices/pi-1").json()["receipts"] == []
    served.device_attests("r1:pi-1", p50_ms=1.25)
    (receipt,) = ready.get("/devices/pi-1").json()["receipts"]
    assert (receipt["deployment"], receipt["p50_ms"]) == ("r1:pi-1", 1.25)
    assert codec.decode(Receipt, receipt["signed"].encode()).p50_ms == 1.25
    (device,) = ready.get("/rollouts/r1").json()["stages"][0]["devices"]
    assert device["receipt"] == receipt


def compare(api: httpx.Client, served: Served, **wishes: object) -> httpx.Response:
    """Create a rollout with wishes of its own, once its device runs a release that compares."""
    said = replace(a_reported(slots={}), versions={"wherry-agent": "0.5.0"})
    served.device_says("pi-1", said)
    stages = [{"name": "canary", "group": "canary"}]
    wish = {"name": "r1", "model": "digits", "version": "v1", "stages": stages, **wishes}
    return api.post("/rollouts", json=wish)


def test_a_rollout_says_how_it_shadows_and_splits(ready: httpx.Client, served: Served) -> None:
    shadow = {"share": 0.1, "for_s": 300, "min_agreement": 0.9}
    made = compare(ready, served, shadow=shadow, split={"share": 0.2}, policy="resource").json()
    assert {name: made["shadow"][name] for name in shadow} == shadow
    assert (made["split"], made["policy"]) == ({"share": 0.2}, "resource")
    (device,) = ready.post("/rollouts/r1/start").json()["stages"][0]["devices"]
    assert (device["status"], device["phase"]) == ("queued", None)
    served.device_is_at("r1:pi-1", Phase.SHADOWING)
    (device,) = ready.get("/rollouts/r1").json()["stages"][0]["devices"]
    assert device["phase"] == "shadowing"


@pytest.mark.parametrize(
    "wishes",
    [
        {"shadow": {"share": 0}},
        {"shadow": {"share": 1.1}},
        {"shadow": {"share": 0.1, "for": 60}},
        {"shadow": {"min_requests": -1}},
        {"shadow": {"min_agreement": 2}},
        {"shadow": {"deadline_s": 0}},
        {"split": {"share": 1}},
        {"split": {"share": 0}},
        {"split": {"part": 0.5}},
        {"policy": "both"},
    ],
)
def test_a_way_to_compare_that_is_none_is_refused(
    ready: httpx.Client, served: Served, wishes: dict[str, object]
) -> None:
    assert refusal(compare(ready, served, **wishes))[0] == 422


def test_a_rollout_that_a_device_refuses_halts(ready: httpx.Client, served: Served) -> None:
    create(ready)
    ready.post("/rollouts/r1/start")
    served.device_ends("r1:pi-1", Status.REVERTED, Reason.SLOW)
    shown = ready.get("/rollouts/r1").json()
    assert (shown["status"], shown["stopped_by"]) == ("reverted", "device")
    assert "slow" in shown["why"]
    assert [stage["status"] for stage in shown["stages"]] == ["halted", "waiting"]
    assert shown["stages"][1]["devices"][0]["status"] is None


def test_an_offline_device_keeps_its_order_until_it_comes(ready: httpx.Client) -> None:
    create(ready)
    (device,) = ready.post("/rollouts/r1/start").json()["stages"][0]["devices"]
    assert device["status"] == "queued"
    assert ready.get("/devices/pi-1").json()["generation"] == 1


def test_a_group_has_one_open_rollout(ready: httpx.Client) -> None:
    create(ready)
    assert refusal(create(ready, "r2")) == (409, "in_a_rollout")
    assert refusal(create(ready)) == (409, "taken")


def test_a_device_in_an_open_rollout_stays(ready: httpx.Client) -> None:
    create(ready)
    assert refusal(ready.delete("/devices/pi-1")) == (409, "in_a_rollout")


def test_a_wish_that_does_not_fit_the_status_is_refused(ready: httpx.Client) -> None:
    create(ready)
    assert refusal(ready.post("/rollouts/r1/resume")) == (409, "not_now")
    assert ready.post("/rollouts/r1/cancel").json()["status"] == "canceled"
    assert refusal(ready.post("/rollouts/r1/start")) == (409, "not_now")


def test_a_version_must_be_built_for_every_device(ready: httpx.Client) -> None:
    register(ready, "v2")
    assert refusal(create(ready, version="v2")) == (409, "no_variant")


def test_a_gate_with_an_unknown_key_is_refused(ready: httpx.Client) -> None:
    stages = [{"name": "canary", "group": "canary", "gate": {"soak_hours": 1}}]
    wish = {"name": "r1", "model": "digits", "version": "v1", "stages": stages}
    answer = ready.post("/rollouts", json=wish)
    assert refusal(answer) == (422, "bad_document")
    assert "soak_hours" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/models/none", "unknown_model"),
        ("/models/none/versions/v1", "unknown_version"),
        ("/models/none/versions", "unknown_model"),
        ("/profiles/none", "unknown_profile"),
        ("/builds/none", "unknown_build"),
        (f"/bundles/{'0' * 64}/manifest", "unknown_bundle"),
        ("/devices/none", "unknown_device"),
        ("/devices/none/telemetry", "unknown_device"),
        ("/groups/none", "unknown_group"),
        ("/rollouts/none", "unknown_rollout"),
    ],
)
def test_what_is_not_there_is_said_by_its_kind(api: httpx.Client, path: str, reason: str) -> None:
    assert refusal(api.get(path)) == (404, reason)


REPORT = "/models/digits/versions/v1/report"


def test_what_builds_tried_of_a_version_is_reported(ready: httpx.Client) -> None:
    report = ready.get(REPORT).json()
    (part,) = report["profiles"]
    assert (report["version"], part["report"]["profile"]) == ("v1", PROFILE)
    assert {one["name"] for one in part["report"]["candidates"]} == {"fp32", "int8-s8s8-1_float"}
    assert part["report"]["chosen"] and part["report"]["why"] and part["report"]["sensitivities"]
    assert part["bundle"] == ready.get("/bundles").json()["items"][0]["bundle"]


def test_the_report_is_a_page_for_who_asks_for_one(ready: httpx.Client) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = ready.get(REPORT, headers=browser)
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "<svg" in page.text and page.text == ready.get(f"{REPORT}.html").text


def test_a_version_that_was_never_built_has_no_report_and_no_reference(api: httpx.Client) -> None:
    register(api)
    assert refusal(api.get(REPORT)) == (404, "unknown_report")
    assert refusal(api.get("/models/digits/versions/v1/reference")) == (404, "unknown_reference")


def test_the_reference_of_a_version_is_what_the_build_kept(
    ready: httpx.Client, served: Served
) -> None:
    served.builder.script = keeps(b"safetensors", b"safetensors")
    assert order(ready).is_success
    shown = ready.get("/models/digits/versions/v1").json()
    weights = ready.get("/models/digits/versions/v1/reference").content
    assert (weights, digest_of(weights)) == (b"safetensors", shown["reference"])


def test_a_build_without_profiles_is_for_all_that_are_declared(ready: httpx.Client) -> None:
    declare(ready, "other")
    answer = ready.post("/builds", json={"model": "digits", "version": "v1"})
    assert answer.json()["profiles"] == ["other", PROFILE]


def test_builds_of_all_models_are_ordered_together(ready: httpx.Client) -> None:
    register(ready, "v2")
    assert order_all(ready) == ["v2"]
    assert order_all(ready, scope="every") == ["v1", "v2"]
    assert refusal(ready.post("/builds/batch", json={"models": ["boats"]})) == (
        404,
        "unknown_model",
    )


def order_all(api: httpx.Client, **wish: str) -> list[str]:
    answer = api.post("/builds/batch", json=wish)
    assert answer.status_code == 202
    return sorted(one["version"] for one in answer.json()["items"])


def test_a_build_shows_what_devices_found_of_its_candidates(
    ready: httpx.Client, served: Served
) -> None:
    order = {"model": "digits", "version": "v1", "measure_on": "canary"}
    build = ready.post("/builds", json=order).json()
    assert (build["measure_on"], build["trials"]) == ("canary", [])
    result = a_trial_result("b:1")
    with served.store.transaction() as tx:
        (bundle,) = (one.bundle for one in models.list_bundles(tx))
        record = TrialRecord(
            id=result.trial,
            build=build["id"],
            device=a_device_id("pi-1"),
            profile=a_profile().name,
            recipe="int8",
            bundle=bundle,
            result=result,
            ordered_at=1.0,
            ended_at=2.0,
        )
        save_trials(tx, [record])
    (trial,) = ready.get(f"/builds/{build['id']}").json()["trials"]
    assert (trial["device"], trial["recipe"]) == ("pi-1", "int8")
    assert trial["result"]["figures"]["p50_ms"] == 2.0
    assert trial["result"]["faithful"]


def test_a_build_that_is_over_cannot_be_canceled(ready: httpx.Client) -> None:
    build = order(ready).json()["id"]
    assert refusal(ready.post(f"/builds/{build}/cancel")) == (409, "build_over")
    assert refusal(ready.post("/builds/nothing/cancel")) == (404, "unknown_build")


def test_a_build_is_canceled(ready: httpx.Client, served: Served) -> None:
    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        yield Progress(BuildStep.QUANTIZING, 1, 4, request.profiles[0].name)
        (open_one,) = (one for one in builds_of(ready) if one["status"] == "running")
        assert open_one["progress"]["profiles"][PROFILE]["step"] == "quantizing"
        canceled.append(ready.post(f"/builds/{open_one['id']}/cancel").json()["status"])
        yield from builds_all(request)

    canceled: list[str] = []
    served.builder.script = script
    build = order(ready).json()["id"]
    assert canceled == ["canceled"]
    assert ready.get(f"/builds/{build}").json()["status"] == "canceled"


def builds_of(api: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.get("/builds").json()["items"]
    return items


def test_the_logs_of_a_build_are_text(ready: httpx.Client, served: Served) -> None:
    served.builder.script = logs({None: "shared", PROFILE: "of one"})
    build = order(ready).json()["id"]
    for path, said in (("log", "shared"), (f"logs/{PROFILE}", "of one")):
        answer = ready.get(f"/builds/{build}/{path}")
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.text == said
    assert refusal(ready.get(f"/builds/{build}/logs/other")) == (404, "unknown_log")
