"""A controller behind its API in one process: what `wherry serve` runs."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI

from wherry.systemd import Notifier
from wherry_controller.api.application import make_api
from wherry_controller.api.context import Context
from wherry_controller.app import Controller, open_controller
from wherry_controller.authority import ca_fingerprint, certificate_pem
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.bucket import Rate
from wherry_controller.door.enrolment import DoorContext
from wherry_controller.door.serving import Doors
from wherry_controller.foundation import read_token_digest
from wherry_controller.services.sides import BothSides
from wherry_controller.settings import Settings

log = logging.getLogger(__name__)

CHATTY = ("alembic", "uvicorn")


def serve_forever(settings: Settings) -> None:
    """Serve until a signal ends it; raises what opening and starting the controller raise."""
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    token_sha256 = read_token_digest(settings)
    with listen(settings.http.host, settings.http.port) as listener:
        notifier = Notifier()
        controller = open_controller(settings, notifier=notifier)
        controller.start()
        doors = open_doors(controller)
        lifespan = _serving(controller, doors, notifier)
        api = make_api(context_of(controller), token_sha256=token_sha256, lifespan=lifespan)
        config = uvicorn.Config(api, log_config=None, access_log=False, lifespan="on")
        log.info("controller.serves", extra={"http": address_of(listener)})
        with contextlib.suppress(KeyboardInterrupt):  # It has shut down in order by then.
            uvicorn.Server(config).run(sockets=[listener])


def context_of(controller: Controller) -> Context:
    return Context(
        store=controller.store,
        blobs=controller.blobs,
        builds=controller.builds,
        trust=controller.trust,
        decide=controller.decide,
        traffic=controller.traffic,
        clock=controller.clock,
        broker_url=controller.settings.broker_url,
        door_url=controller.settings.door.url,
        ca=ca_fingerprint(controller.authority),
        revocations=controller.revocations,
        sides=BothSides(before_s=controller.settings.gates.incumbent_span_s),
    )


def open_doors(controller: Controller) -> Doors:
    """Open the doors for devices; whoever closes them does so before the controller."""
    door, folder = controller.settings.door, controller.settings.authority_folder
    context = DoorContext(
        decide=controller.decide,
        clock=controller.clock,
        ca_pem=certificate_pem(controller.authority),
        rate=Rate(door.per_second, door.burst),
    )
    controller.revocations.ensure(controller.clock())
    doors = Doors(door, controller.authority, folder, context=context, blobs=controller.blobs)
    controller.revocations.tell(doors.refresh)
    doors.start()
    return doors


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise `Ended` where the address is taken."""
    try:
        listener = socket.create_server((host, port))
        # Measured: answers wait 40 ms for an acknowledgement without it, and asyncio sets it only
        # on sockets whose protocol is named, which accepted ones take from their listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        problem = f"{host}:{port} cannot be listened on ({error.strerror})"
        step = "end what listens there, or set http.port in wherry.toml"
        raise Ended(Exit.UNAVAILABLE, f"{problem}: {step}.") from error


def _serving(
    controller: Controller, doors: Doors, notifier: Notifier
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan that closes the controller: a signal ends the process right after it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        notifier.ready(f"serves {controller.settings.http.host}:{controller.settings.http.port}")
        yield
        notifier.stop()
        doors.close()
        controller.close()

    return lifespan
