"""A body of JSON with raw tensors after it: the binary tensor data extension.

    body = JSON (as many bytes as the header `inference-header-content-length` says),
           then the bytes of each tensor that has a `binary_data_size`, in the order of the JSON

Without that header the whole body is JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from wherry.errors import Malformed


class BadBinary(Malformed):
    """Lengths that do not fit the bytes that came."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}."


@dataclass(slots=True)
class Rest:
    """The raw bytes after the JSON, from which each tensor takes its own."""

    data: memoryview
    at: int = 0

    def take(self, name: str, size_bytes: int) -> memoryview:
        """Return the next bytes; raise `BadBinary` where there are fewer."""
        start, self.at = self.at, self.at + size_bytes
        if self.at > len(self.data):
            problem = f"the binary data of {name!r} end after {len(self.data) - start} bytes"
            raise BadBinary(problem, f"send the {size_bytes} of its binary_data_size")
        return self.data[start : self.at]

    def finish(self) -> None:
        """Raise `BadBinary` where bytes are left that no tensor took."""
        if self.at != len(self.data):
            problem = f"{len(self.data) - self.at} bytes follow the tensors"
            raise BadBinary(problem, "send as many as the binary_data_sizes say")


def split(body: bytes | bytearray | memoryview, json_bytes: str | None) -> tuple[memoryview, Rest]:
    """Return the JSON and what follows it; raise `BadBinary` for a length that is none."""
    view = memoryview(body)
    if json_bytes is None:
        return view, Rest(view[len(view) :])
    text = json_bytes.strip()
    length = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not 0 < length <= len(view):
        problem = f"inference-header-content-length is {text[:40]!r} and the body {len(view)} bytes"
        raise BadBinary(problem, "give the bytes of its JSON")
    # A copy: what runs the model may write where the body stands.
    return memoryview(bytes(view[:length])), Rest(view[length:])
