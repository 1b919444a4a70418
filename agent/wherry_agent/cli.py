"""The command `wherry-agent`: enrol a device, run its agent, look at both, ask its model.

Exit codes: 0 done; 1 it was refused or went wrong; 2 the words of the command are off.
A refusal is one line on standard error that ends with what to do next.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import TypedDict

import msgspec
from msgspec.structs import replace

from wherry import __version__, journal
from wherry.enrolment import parse_fingerprint, parse_token
from wherry.errors import REFUSALS, Malformed
from wherry.logs import JsonFormatter, log_to, log_to_stderr
from wherry.names import Digest, parse_alias_name, parse_device_id, parse_profile_name
from wherry.systemd import Notifier, take_sockets
from wherry.trust.keeping import report_of
from wherry_agent import detect, host
from wherry_agent.client import Client, Input, NotReachable
from wherry_agent.core.checkup import Check, Health, worst
from wherry_agent.core.install import deployment_of, slots_of
from wherry_agent.core.proposal import propose, toml_of
from wherry_agent.settings import (
    DEFAULT_SOCKET,
    ApiSettings,
    FetchSettings,
    LogFormat,
    TelemetrySettings,
    default_home,
    read_settings,
    socket_of,
)
from wherry_agent.store import look
from wherry_agent.telling import degraded_of


class BadInput(Malformed):
    """A file of inputs that is not what `infer` takes."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(place, problem)
        self.place, self.problem = place, problem

    def __str__(self) -> str:
        return f'{self.place}: {self.problem}; give a JSON object like {{"image": [[…]]}}.'


class NothingToTrust(Malformed):
    """Enrolling without anything that says which controller is the right one."""

    def __str__(self) -> str:
        return (
            "nothing says which controller to trust: give --token from `wherry token create`, or "
            "--ca-fingerprint from `wherry token ca` and wait for an approval."
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except REFUSALS as error:
        print(f"wherry-agent: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"wherry-agent: {error}; check the path and its rights.", file=sys.stderr)
        return 1


def _enrol(options: argparse.Namespace) -> int:
    from wherry_agent import enrolling  # It knows x509, which the other commands do without.

    wish = enrolling.Wish(
        controller=options.controller,
        **_admission(options),
        device=parse_device_id(options.id) if options.id else None,
        profile=parse_profile_name(options.profile) if options.profile else None,
        wait_s=options.wait_s,
        local=lambda settings: replace(
            settings,
            simulate=options.simulate,
            api=ApiSettings(socket=options.socket, port=options.port),
            fetch=FetchSettings(max_bytes_per_s=options.max_bytes_per_s),
            telemetry=TelemetrySettings(window_s=options.window_s),
        ),
    )
    try:
        identity = enrolling.enrol(options.home, wish, _say, sleep=time.sleep)
    finally:
        enrolling.hand_over(options.home)
    ends = time.strftime("%Y-%m-%d", time.gmtime(identity.not_after))
    _say(f"the certificate lasts until {ends}; the agent renews it by itself.")
    home = "" if options.home == default_home() else f" --home {options.home}"
    print(f"{identity.device} is enrolled in {options.home}: next, `wherry-agent run{home}`.")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


class _Admission(TypedDict):
    ca: Digest
    secret: str | None


def _admission(options: argparse.Namespace) -> _Admission:
    """Return what the door and the device know each other by: a token, or a fingerprint alone."""
    if options.token is None and options.ca_fingerprint is None:
        raise NothingToTrust
    if options.token is None:
        return _Admission(ca=parse_fingerprint(options.ca_fingerprint), secret=None)
    text = sys.stdin.readline() if options.token == "-" else options.token
    token = parse_token(text)
    return _Admission(ca=token.ca, secret=token.secret)


def _run(options: argparse.Namespace) -> int:
    from wherry_agent.app import App  # The other commands start without the loop's libraries.
    from wherry_agent.serving import Bound

    settings = read_settings(options.home)
    if journal.is_listening():
        log_to(journal.JournalHandler("wherry-agent"))
    else:
        log_to_stderr(formatter=JsonFormatter() if settings.log is LogFormat.JSON else None)
    sockets = take_sockets()
    bound = Bound(local=sockets.get("api"), http=sockets.get("http"))
    app = App(options.home, settings, Notifier(), bound)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: app.stop())
    app.run()
    return 0


def _status(options: argparse.Namespace) -> int:
    settings = read_settings(options.home)
    seen = look(options.home / "state")
    aliases, trust = seen.saved.aliases, seen.trust
    status = {
        "device": settings.id,
        "profile": settings.profile,
        "broker": settings.broker,
        "running": _is_running(socket_of(options.home, settings)),
        "generation": trust.generation if trust else 0,
        "trust": msgspec.to_builtins(report_of(trust, time.time())) if trust else None,
        "degraded": [reason.value for reason in degraded_of(aliases)],
        "aliases": {
            alias: {
                "slots": msgspec.to_builtins(slots_of(state)),
                "deployment": msgspec.to_builtins(deployment_of(state)),
            }
            for alias, state in aliases.items()
        },
    }
    print(json.dumps(status, indent=2) if options.json else _table(status))
    return 0


def _is_running(socket: Path) -> bool:
    with Client(socket) as client:
        try:
            client.is_ready("default")
        except NotReachable:
            return False
        return True


def _doctor(options: argparse.Namespace) -> int:
    from wherry_agent import doctor, probing  # The other commands dial and probe nothing.

    checks: list[Check] = []
    for check in doctor.examine(options.home, probing.prove):
        checks.append(check)
        if not options.json:
            print(_line_of(check), flush=True)  # One by one: dialling takes its time.
    health = worst(checks)
    if options.json:
        print(msgspec.json.encode({"health": health, "checks": checks}).decode())
    return 1 if health is Health.BAD else 0


def _line_of(check: Check) -> str:
    line = f"{check.health.value:<9}{check.subject:<22}{check.found}"
    return f"{line}\n{'':<9}{'':<22}-> {check.remedy}" if check.remedy else line


def _ready(options: argparse.Namespace) -> int:
    with Client(_socket_asked(options)) as client:
        is_ready = client.all_ready()
    print("ready" if is_ready else "not ready: `wherry-agent status` says what each alias lacks")
    return 0 if is_ready else 1


def _infer(options: argparse.Namespace) -> int:
    address = _socket_asked(options)
    rows = _read_rows(options.input)
    alias = parse_alias_name(options.alias)
    with Client(address) as client:
        model = msgspec.convert(client.metadata(alias), _Model)
        datatypes = {tensor.name: tensor.datatype for tensor in model.inputs}
        if rows.keys() != datatypes.keys():
            has = ", ".join(rows) or "nothing"
            raise BadInput(
                options.input, f"it holds {has} and {alias} takes {', '.join(datatypes)}"
            )
        inputs = {name: Input(datatypes[name], _shape(data), data) for name, data in rows.items()}
        answer = client.infer(alias, inputs)
    print(msgspec.json.encode(answer).decode())
    return 0


def _socket_asked(options: argparse.Namespace) -> Path:
    given: Path | None = options.socket
    return given or socket_of(options.home, read_settings(options.home))


def _profile(options: argparse.Namespace) -> int:
    proposal = propose(detect.facts(), host.runtimes())
    text = msgspec.json.encode(proposal).decode() if options.json else toml_of(proposal)
    print(text.rstrip("\n"))
    return 0


class _Tensor(msgspec.Struct):
    name: str
    datatype: str


class _Model(msgspec.Struct):
    inputs: list[_Tensor]


def _read_rows(place: str) -> dict[str, list[object]]:
    data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    try:
        return msgspec.json.decode(data, type=dict[str, list[object]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(place, str(error)) from error


def _shape(rows: list[object]) -> tuple[int, ...]:
    """Return the lengths of nested lists along their first elements."""
    inner = rows[0] if rows else None
    return (len(rows), *(_shape(inner) if isinstance(inner, list) else ()))


def _table(status: dict[str, object]) -> str:
    rows = [(name, value) for name, value in status.items() if name != "aliases"]
    lines = [f"{name:<12}{_words(value)}" for name, value in rows]
    aliases = status["aliases"]
    for alias, facts in aliases.items() if isinstance(aliases, dict) else ():
        slots, deployment = facts["slots"], facts["deployment"] or {}
        lines.append(f"\nalias {alias}")
        lines += [f"  {slot:<12}{(digest or '-')[:12]}" for slot, digest in slots.items()]
        words = [deployment.get(key) for key in ("status", "phase", "reason", "detail")]
        lines.append(f"  {'deployment':<12}{' '.join(word for word in words if word) or '-'}")
    return "\n".join(lines)


def _words(value: object) -> str:
    """Return a fact in one line: versions by name, reasons one after another."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {known:g}" for name, known in value.items() if name != "now_s")
    if isinstance(value, list):
        return ", ".join(value) or "no"
    return "none yet" if value is None else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherry-agent", description="Runs the models that a Wherry controller sends."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def homeless(name: str, what: str, run: object) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what)
        sub.set_defaults(run=run)
        return sub

    def command(name: str, what: str, run: object) -> argparse.ArgumentParser:
        sub = homeless(name, what, run)
        sub.add_argument(
            "--home", type=Path, default=default_home(), help="folder of settings and state"
        )
        return sub

    sub = command("enrol", "Make this machine a device of a controller.", _enrol)
    sub.add_argument("--controller", required=True, help="its device door: https://host:port")
    sub.add_argument("--token", help="what `wherry token create` printed; - reads it from stdin")
    sub.add_argument(
        "--ca-fingerprint", help="without a token: what `wherry token ca` printed; then wait"
    )
    sub.add_argument("--wait-s", type=float, default=86_400.0, help="for an operator's approval")
    sub.add_argument("--id", help="refuse to become another device than this one")
    sub.add_argument("--profile", help="the hardware class to be approved for")
    sub.add_argument("--socket", default=DEFAULT_SOCKET, help="where applications ask")
    sub.add_argument("--port", type=int, help="also answer on this loopback HTTP port")
    sub.add_argument("--max-bytes-per-s", type=float, help="fetch no faster than this")
    sub.add_argument("--window-s", type=float, default=10.0, help="seconds a telemetry window")
    sub.add_argument(
        "--simulate", action="store_true", help="stand in for other hardware (loopback only)"
    )
    command("run", "Serve what was confirmed and follow the controller.", _run)
    sub = command("status", "Show what this device has.", _status)
    sub.add_argument("--json", action="store_true", help="print JSON for scripts")
    sub = command("doctor", "Say what is wrong with this device, and what to do.", _doctor)
    sub.add_argument("--json", action="store_true", help="print JSON for scripts")
    sub = command("ready", "Say whether every alias is served; exit status 1 if not.", _ready)
    sub.add_argument("--socket", type=Path, help="ask there, for users who may not read the home")
    sub = homeless("profile", "Propose a profile from what this machine is.", _profile)
    sub.add_argument("--json", action="store_true", help="print JSON for scripts")
    sub = command("infer", "Ask the running agent's model.", _infer)
    sub.add_argument("alias", help="the name the model serves under")
    sub.add_argument("--input", default="-", help="JSON file of input name to rows; - is stdin")
    sub.add_argument("--socket", type=Path, help="ask there, for users who may not read the home")
    return parser
