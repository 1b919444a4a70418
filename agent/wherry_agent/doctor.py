"""Looks a device over from outside its agent: what is wrong, and what to do about it.

It reads what is on the disk and tries what the agent would dial, and changes nothing. It never
logs on to the broker: with the device's certificate that would end the agent's own session.
"""

from __future__ import annotations

import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from wherry.errors import REFUSALS, Malformed
from wherry.profile import Runtime
from wherry.trust.keeping import Trust, now_of, proved_by_certificates
from wherry_agent import host
from wherry_agent.client import Client, NotReachable
from wherry_agent.core.checkup import (
    Check,
    bad,
    check_aliases,
    check_certificate,
    check_clock,
    check_disk,
    check_heat,
    check_memory,
    concern,
    well,
)
from wherry_agent.core.dates import Verdict, judge
from wherry_agent.database import is_read_only
from wherry_agent.settings import (
    KEY_FILE,
    Broker,
    Settings,
    parse_broker,
    parse_door,
    read_identity,
    read_settings,
    socket_of,
)
from wherry_agent.store import Seen, look
from wherry_agent.tls import context_of, dates_of

DIAL_S = 5.0


def examine(home: Path, prove: Callable[[str, str], str | None]) -> Iterator[Check]:
    """Yield one check after another of the device in `home`.

    `prove` tries a runtime of a version in a process of its own, and returns what is wrong with it.
    """
    try:
        settings = read_settings(home)
    except REFUSALS as error:
        yield _refused("settings", error)
        return
    yield well("settings", f"{settings.id}, profile {settings.profile}")
    try:
        seen = look(home / "state")
    except REFUSALS as error:
        yield _refused("store", error)
        seen = None
    trust = seen.trust if seen else None
    yield from _examine_identity(home, trust)
    yield from _examine_host(home, settings, trust)
    yield from _examine_runtimes(host.runtimes(), prove)
    yield from _examine_network(home, settings, trust)
    yield _examine_api(socket_of(home, settings))
    if seen:
        yield from _examine_models(seen)


def _refused(subject: str, error: Exception) -> Check:
    return bad(subject, str(error), "")  # The sentence ends with what to do.


def _examine_identity(home: Path, trust: Trust | None) -> Iterator[Check]:
    try:
        identity = read_identity(home)
        mode = stat.S_IMODE((home / KEY_FILE).stat().st_mode)
    except REFUSALS as error:
        yield _refused("identity", error)
        return
    except OSError as error:
        yield bad("identity", f"its key cannot be read ({error})", "run the doctor as the agent")
        return
    if mode & 0o077:
        found = f"others may read its key (mode {mode:o})"
        yield bad("identity", found, f"chmod 600 {home / KEY_FILE}, then revoke and enrol again")
    now = now_of(trust, time.time()) if trust else time.time()
    yield check_certificate(identity.not_before, identity.not_after, now)


def _examine_host(home: Path, settings: Settings, trust: Trust | None) -> Iterator[Check]:
    facts = host.facts(home)
    if trust:
        yield check_clock(time.time(), now_of(trust, 0.0))
    reserve_bytes = settings.fetch.reserve_bytes
    yield check_disk(facts, reserve_bytes=reserve_bytes, is_read_only=is_read_only(home))
    yield check_memory(facts)
    yield check_heat(facts)


def _examine_runtimes(
    installed: Mapping[str, str], prove: Callable[[str, str], str | None]
) -> Iterator[Check]:
    if not installed:
        names = ", ".join(runtime.value for runtime in Runtime)
        yield bad("runtimes", "none is installed", f"install the one of the profile: {names}")
    for runtime, version in installed.items():
        wrong = prove(runtime, version)
        if wrong is None:
            yield well(f"runtime {runtime}", f"{version} computes as it should")
        else:
            yield bad(f"runtime {runtime}", f"{version}: {wrong}", "install another version of it")


def _examine_network(home: Path, settings: Settings, trust: Trust | None) -> Iterator[Check]:
    floor = proved_by_certificates(trust) if trust else 0.0
    broker = parse_broker(settings.broker)
    yield _dial("broker", broker, home, floor)
    if settings.fetch_broker:
        yield _dial("fetch broker", parse_broker(settings.fetch_broker), home, floor)
    for subject, url in (("controller", settings.controller), ("blobs", settings.blobs)):
        if url is not None:
            host_name, port = parse_door(url)
            yield _dial(subject, Broker(host_name, port, tls=True), home, floor)


def _dial(subject: str, broker: Broker, home: Path, floor: float) -> Check:
    """Connect, and shake hands where it is by TLS; say nothing on it."""
    place = f"{broker.host}:{broker.port}"
    try:
        with closing(socket.create_connection((broker.host, broker.port), DIAL_S)) as link:
            if not broker.tls:
                return well(subject, f"{place} answers")
            with context_of(home).wrap_socket(link, server_hostname=broker.host) as secured:
                verdict = judge(dates_of(secured), floor=floor, clock=time.time())
    except socket.gaierror:
        return bad(subject, f"nobody knows {broker.host}", "correct the name, or look at DNS")
    except ssl.SSLError as error:
        remedy = "enrol again where the authority is another one, and look at the broker's log"
        return bad(subject, f"{place} is not trusted, or does not trust us ({error})", remedy)
    except OSError as error:
        remedy = "look at the network and the firewall, and that it runs there"
        return bad(subject, f"{place} does not answer ({error})", remedy)
    match verdict:
        case Verdict.SOUND:
            return well(subject, f"{place} answers, and is the one that is trusted")
        case Verdict.CLOCK_AHEAD:
            found = f"the certificate of {place} has ended by this clock"
            return concern(subject, found, "set the clock, or give the broker a new certificate")
        case Verdict.EXPIRED:
            found = f"the certificate of {place} has ended"
            return bad(subject, found, "give it a new one (`wherry broker config`)")


def _examine_api(place: Path) -> Check:
    with Client(place) as client:
        try:
            client.is_ready("default")
        except NotReachable as error:
            remedy = "start it: `systemctl start wherry-agent`, or `wherry-agent run`"
            return bad("agent", f"none answers at {place} ({error.problem})", remedy)
        except Malformed as error:
            return _refused("agent", error)
    return well("agent", f"it answers at {place}")


def _examine_models(seen: Seen) -> Iterator[Check]:
    if seen.trust is None or seen.trust.order_digest is None:
        remedy = "let it reach the broker, and look at `wherry device show` there"
        yield concern("orders", "it has followed none yet", remedy)
    else:
        yield well("orders", f"it follows generation {seen.trust.generation}")
    yield from check_aliases(seen.saved.aliases)
