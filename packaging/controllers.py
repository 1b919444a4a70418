"""What the controller's package has: all that founds, serves, signs and rolls out.

It has no builders: torch and its like are gigabytes, and their wheels differ by processor.
`wherry build` says there what to install instead.
"""

from __future__ import annotations

from package import CPP, LIBC, SCRIPTS, Package, part
from staging import ROOT

NAME, UNIT = "wherry-controller", "wherry-controller.service"
PYTHONS = ("3.11", "3.12", "3.13")
# The requirements of shared[trust,delta] and of controller, and theirs.
COMMON = (
    "alembic",
    "annotated-doc",
    "annotated-types",
    "anyio",
    "certifi",
    "click",
    "cryptography",
    "fastapi",
    "h11",
    "httpcore",
    "httpx",
    "idna",
    "Mako",
    "markdown-it-py",
    "mdurl",
    "opentelemetry-api",
    "paho-mqtt",
    "pydantic",
    "Pygments",
    "python-multipart",
    "rich",
    "securesystemslib",
    "shellingham",
    "sqlmodel",
    "starlette",
    "tuf",
    "typer",
    "typing-inspection",
    "typing_extensions",
    "urllib3",
    "uvicorn",
)
COMPILED = ("cffi", "MarkupSafe", "msgspec", "numpy", "pydantic_core", "SQLAlchemy", "zstandard")


def controller() -> Package:
    return Package(
        name=NAME,
        summary="rolls machine-learning models out to a fleet of devices",
        common=COMMON,
        compiled=COMPILED,
        ours=("shared/wherry", "controller/wherry_controller"),
        depends=(
            *("python3 (>= 3.11~)", "python3 (<< 3.14~)", LIBC, *CPP),
            *("adduser", "init-system-helpers (>= 1.54~)"),
        ),
        recommends=("mosquitto (>= 2.0)",),
        files={
            "/usr/bin/wherry": SCRIPTS / "launcher",
            f"/usr/lib/systemd/system/{UNIT}": ROOT / "systemd" / UNIT,
        },
        conffiles={"/etc/default/wherry-controller": SCRIPTS / "wherry-controller.default"},
        manual=SCRIPTS / "wherry.1",
        words={
            "PROGRAM": "wherry",
            "MODULE": "wherry_controller",
            "PACKAGES": NAME,
            **{
                name.upper(): part(f"controller.{name}")
                for name in ("accounts", "start", "stop", "purge")
            },
        },
        pythons=PYTHONS,
    )
