"""The connection on which manifests and chunks are fetched, as the download machine says."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import assert_never

from wherry.measures import Traffic
from wherry.topics import BlobTopic, BundleTopic, text
from wherry_agent.core import download
from wherry_agent.mqtt import Callbacks, Connection
from wherry_agent.settings import Broker
from wherry_agent.tls import Secured

Ask = download.AskManifest | download.DropManifest | download.AskChunks | download.DropChunks


class Fetch:
    """A second client id, so that a flood of chunks never holds up an order.

    Receive Maximum is the window: the broker sends no more before the last are acknowledged.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        on_link: Callable[[bool], None],
        on_message: Callable[[str, bytes], None],
        secured: Secured | None = None,
    ) -> None:
        callbacks = Callbacks(
            on_up=lambda: on_link(True),
            on_down=lambda: on_link(False),
            on_message=on_message,
            on_puback=lambda _mid: None,
        )
        self._connection = Connection(
            broker, client_id, callbacks, window=download.WINDOW, will=None, secured=secured
        )

    def open(self) -> None:
        self._connection.connect()

    def close(self) -> None:
        self._connection.close()

    def traffic(self) -> Traffic:
        return self._connection.traffic()

    def perform(self, ask: Ask) -> None:
        match ask:
            case download.AskManifest(bundle):
                self._connection.subscribe([text(BundleTopic(bundle))])
            case download.DropManifest(bundle):
                self._connection.unsubscribe([text(BundleTopic(bundle))])
            case download.AskChunks(chunks):
                self._connection.subscribe([text(BlobTopic(chunk)) for chunk in chunks])
            case download.DropChunks(chunks):
                self._connection.unsubscribe([text(BlobTopic(chunk)) for chunk in chunks])
            case _:
                assert_never(ask)
