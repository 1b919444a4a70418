"""What `wherry broker config mosquitto` does: heavy to import, so no other command does."""

from __future__ import annotations

import getpass
import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wherry import codec
from wherry.files import make_folder
from wherry_controller.authority import Authority, found_authority
from wherry_controller.cli import show
from wherry_controller.core.mosquitto import CONFIGURATION, PID, UNIT, Layout
from wherry_controller.services import mosquitto
from wherry_controller.services.crl import Revocations, is_due
from wherry_controller.services.mosquitto import Written
from wherry_controller.settings import PORTS, Settings
from wherry_controller.store.database import Store, open_store
from wherry_controller.store.identities import list_enrolled

LOCAL = ("localhost", "127.0.0.1")
DEBIANS_USER = "mosquitto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator said; None where they said nothing."""

    folder: Path | None
    hosts: tuple[str, ...]
    listen: str
    control_port: int | None
    fetch_port: int | None
    devices: int
    user: str | None
    plugin: Path | None
    reload: str | None
    as_json: bool


def prepare(settings: Settings, wish: Wish) -> None:
    """Write what mosquitto runs from, have it read that, and print what comes next."""
    now = time.time()
    authority = found_authority(make_folder(settings.authority_folder, mode=0o700), now)
    hosts = wish.hosts or _hosts(settings)
    layout = _layout(settings, wish)
    written = _write(layout, authority, settings, hosts, now)
    if wish.reload is not None:
        mosquitto.reload(wish.reload)
    if wish.as_json:
        told = {"folder": layout.folder, "changed": written.changed, "runs": written.was_running}
        show.raw(codec.encode(told))
        return
    said = f"wrote {', '.join(written.changed)}" if written.changed else "nothing to change"
    show.line(f"{layout.folder}: {said}.")
    for step in _steps(layout, written, settings, wish, hosts[0]):
        show.line(step)


def _layout(settings: Settings, wish: Wish) -> Layout:
    control_port = wish.control_port or _control_port(settings)
    return Layout(
        folder=str((wish.folder or settings.broker_folder).resolve()),
        home=settings.folder,
        user=wish.user or _user(),
        plugin=str(wish.plugin or mosquitto.find_plugin()),
        address=wish.listen,
        control_port=control_port,
        fetch_port=wish.fetch_port or control_port + 1,
        devices=wish.devices,
        budget_bytes=settings.broker.budget_bytes,
    )


def _write(
    layout: Layout, authority: Authority, settings: Settings, hosts: tuple[str, ...], now: float
) -> Written:
    """Write the broker's files, and the certificate that the controller shows to it."""
    store = open_store(settings.database_url)
    try:
        revoked = _revoked(store, authority, settings, now)
        with store.reading() as tx:
            devices = list_enrolled(tx)
    finally:
        store.close()
    own = settings.authority_folder
    list(mosquitto.put(own, mosquitto.controllers_files(own, authority, now)))
    return mosquitto.write(layout, authority, revoked, names=hosts, devices=devices, now=now)


def _revoked(store: Store, authority: Authority, settings: Settings, now: float) -> bytes:
    revocations = Revocations(store, authority, settings.authority_folder)
    newest = revocations.newest
    if newest is None or is_due(newest, now):
        newest = revocations.issue(now)
    return newest.pem


def _steps(
    layout: Layout, written: Written, settings: Settings, wish: Wish, host: str
) -> Iterator[str]:
    """Yield what is to be done next, in order."""
    folder = Path(layout.folder)
    if not written.was_running:
        yield f"Next, as root: install -m 0644 {folder / UNIT} /etc/systemd/system/"
        yield f"  and then: systemctl enable --now {UNIT}"
        yield f"  or: mosquitto -d -c {folder / CONFIGURATION}"
    elif CONFIGURATION in written.changed:
        yield "Next: restart mosquitto, which reads its listeners and limits only then."
    elif written.changed and wish.reload is None:
        yield f"Next: the same again with --reload {folder / PID}"
    if not settings.has_guarded_broker:
        url = f"mqtts://{host}:{layout.control_port}"
        yield f'Then: url = "{url}" under [broker] in wherry.toml, and wherry serve'


def _hosts(settings: Settings) -> tuple[str, ...]:
    """Return the names that the broker has: the one in the settings, and this machine's."""
    if not settings.has_guarded_broker:
        return LOCAL
    return tuple(dict.fromkeys((settings.broker_address[0], *LOCAL)))


def _control_port(settings: Settings) -> int:
    return settings.broker_address[1] if settings.has_guarded_broker else PORTS["mqtts"]


def _user() -> str:
    """Return whom Debian's mosquitto runs as when root starts it, else who asks."""
    is_known = any(one.pw_name == DEBIANS_USER for one in pwd.getpwall())
    return DEBIANS_USER if os.geteuid() == 0 and is_known else getpass.getuser()
