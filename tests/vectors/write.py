"""Writes the golden vectors again: `python -m tests.vectors.write`."""

from __future__ import annotations

from tests.vectors import papers, repository, wire
from tests.vectors.cases import FOLDER, Case, a_file
from tests.vectors.documents import documents
from wherry import codec


def files() -> dict[str, bytes]:
    """Return the bytes of every file that a device's side is enough for, by its name."""
    written = {
        f"{name}.json": a_file(
            f"The bytes of `{name}` documents, as `text`.",
            (Case(case, codec.encode(value).decode()) for case, value in values.items()),
        )
        for name, values in documents().items()
    }
    return {
        **written,
        "envelope.json": a_file("Signed documents, by the key in keys.json.", wire.envelopes()),
        "keys.json": a_file("A key for tests, made from its seed: trust it nowhere.", wire.keys()),
        "topics.json": a_file("MQTT topics and the filter of each kind.", wire.topic_cases()),
        "buckets.json": a_file("Durations in nanoseconds and their buckets.", wire.buckets()),
        "chunks.json": a_file("Bytes and the blobs that they are cut to.", wire.chunks()),
        "delta.json": a_file("Deltas of one window, in hexadecimal.", wire.deltas()),
        "metadata.json": a_file(
            "A repository's TUF metadata, piece by piece.", repository.metadata()
        ),
        "packet.json": a_file("Pieces of metadata.json in one text.", repository.packets()),
        "condensed.json": a_file("Texts without what costs most.", repository.condensed()),
        "skeleton.json": a_file("The dictionary of packets.", repository.skeletons()),
        "papers.json": a_file("Keys and a CA, as PEM: trust them nowhere.", papers.ca_files()),
        "token.json": a_file("What an operator copies to a device.", papers.tokens()),
    }


def main() -> None:
    # Only here: a device's side is tested without a controller.
    from tests.vectors import holding

    for name, data in {**files(), **holding.files()}.items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
