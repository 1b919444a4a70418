"""`make fuzz`: the parsers again, with a fuzzer that sees which of their lines it has reached.

Run as `python -m tests.fuzz.atheris_targets NAME [options of libFuzzer]`, in an environment that
has atheris. A crash is a parser that did not refuse by name; its bytes are kept in the folder of
`-artifact_prefix`. Without a name it lists them.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wherry", "wherry_agent"]):
    from tests.fuzz.parsers import PARSERS
    from wherry.errors import REFUSALS


def write_seeds(name: str, folder: Path) -> None:
    """Give the fuzzer bytes to begin with, as libFuzzer wants them: one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(PARSERS[name].seeds):
        (folder / f"seed-{number}").write_bytes(seed)


def main(words: list[str]) -> None:
    if not words:
        sys.stdout.write("\n".join(PARSERS) + "\n")
        return
    name, *options = words
    read = PARSERS[name].read
    folders = [Path(option) for option in options if not option.startswith("-")]
    for folder in folders:
        write_seeds(name, folder)

    def once(data: bytes) -> None:
        with suppress(*REFUSALS):
            read(data)

    atheris.Setup([sys.argv[0], *options], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
