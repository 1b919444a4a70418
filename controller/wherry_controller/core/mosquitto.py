"""The text of mosquitto's configuration: two listeners that ask for certificates, and limits.

Written for mosquitto 2.0. Each limit says in the file itself what it is for, since whoever reads
that file is about to change it.
"""

from __future__ import annotations

from dataclasses import dataclass

CONFIGURATION, UNIT = "mosquitto.conf", "wherry-broker.service"
CA, CERTIFICATE, KEY, REVOKED = "ca.pem", "server.pem", "server.key", "crl.pem"
RIGHTS = "state/dynamic-security.json"
STATE = "state"
PID = "state/mosquitto.pid"
# Measured with mosquitto 2.0.11, 250 devices and then 10,000 in its file of rights. A device's two
# connections with TLS 1.3 took 48 KiB when they had subscribed and 64 KiB when they had spoken and
# been sent 2 MiB of chunks (89 KiB where they read with a window of 4 KiB); its rights took 11 KiB,
# and 3 KiB more while the plugin wrote its file. Nothing went back when they left. Send buffers of
# the kernel, up to 2 MiB for a device that downloads slowly, are not among it.
BYTES_A_DEVICE = (89 + 11 + 3) << 10
# The program itself (9 MiB), the plugin's answers, and what waits for the controller.
BASE_BYTES = 128 << 20
LARGEST_PACKET_BYTES = 2 << 20

_TEXT = """\
# Written by `wherry broker config mosquitto`, which writes it anew: change its options instead.
user {user}
pid_file {folder}/{pid}
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information

# Who may do what. The plugin keeps this file itself while the broker runs.
per_listener_settings false
allow_anonymous false
plugin {plugin}
plugin_opt_config_file {folder}/{rights}

# Limits of this release's parts; the broker tells them to whoever connects.
# The largest chunk has 256 KiB and the largest signed manifest fits; message_size_limit would
# instead cut its sender off again and again.
max_packet_size {packet}
# What is on its way to one connection. A fetching device asks for 8 chunks itself.
max_inflight_messages 20
# What waits for one connection: 10,000 devices may speak at once to the controller, and the
# default of 1000 drops messages that were acknowledged.
max_queued_messages 100000
max_queued_bytes {queued}
# There is no memory_limit: the plugin's answers make mosquitto 2.0 count its memory below zero,
# and it would refuse everybody from then on. {unit} bounds the process instead.
# Devices keep no session, so what another left behind goes soon.
persistent_client_expiration 1h
# A connection whose other end is gone is noticed within one and a half of these.
max_keepalive 60
set_tcp_nodelay true

# The broker is a cache: the controller fills it again. Saving rewrites all that is retained and
# holds everybody up meanwhile (1.5 s for 600 MB), so it is seldom; the default of 30 minutes
# would have chunks fetched from the controller again after each power cut.
persistence true
persistence_location {folder}/{state}
autosave_interval 300

# Orders and reports. The certificate's common name is the username and the client id.
{control}
use_identity_as_username true

# Chunks and manifests, on a second connection of the same certificate. Its whole subject is the
# username and the client id, so that the two connections do not evict each other.
{fetch}
use_subject_as_username true
"""
_LISTENER = """\
listener {port} {address}
cafile {folder}/{ca}
certfile {folder}/{certificate}
keyfile {folder}/{key}
# Must be newer than its "next update", else nobody is let in: the controller writes it daily.
crlfile {folder}/{revoked}
require_certificate true
tls_version tlsv1.3
use_username_as_clientid true"""
_UNIT_TEXT = """\
# Written by `wherry broker config mosquitto`, which writes it anew: change it by a drop-in.
[Unit]
Description=The broker between Wherry's controller and its devices
After=network-online.target
Wants=network-online.target

[Service]
User={user}
ExecStart={program} -c {folder}/{configuration}
ExecReload=/bin/kill -HUP $MAINPID
# It is a cache: whatever ends it costs time, and the controller fills it again.
Restart=always
RestartSec=1
# Two connections a device; the default of 1024 files ends at 500 devices.
LimitNOFILE=131072
# What is retained (broker.budget_bytes in wherry.toml; saving it takes nothing more), and room for
# {devices} devices (--devices). Beyond the first it is slowed down, beyond the second ended.
MemoryHigh={high}
MemoryMax={most}
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
# It runs as the controller's own user, who tells it to read its files again, and sees no more of
# the controller's folder than its own part; in a space of users of its own it looks into none of
# that user's other processes.
TemporaryFileSystem={home}:ro
BindReadOnlyPaths={folder}
BindPaths={folder}/{state}
PrivateUsers=yes

[Install]
WantedBy=multi-user.target
"""
QUEUED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the broker finds its files and listens; `home` is the controller's folder.

    It has room for `devices`, and for `budget_bytes` of chunks that are retained.
    """

    folder: str
    home: str
    user: str
    plugin: str
    program: str = "/usr/sbin/mosquitto"
    address: str
    control_port: int
    fetch_port: int
    devices: int
    budget_bytes: int


def configuration(layout: Layout) -> str:
    """Return `mosquitto.conf`."""
    return _TEXT.format(
        user=layout.user,
        folder=layout.folder,
        plugin=layout.plugin,
        pid=PID,
        rights=RIGHTS,
        state=STATE,
        packet=LARGEST_PACKET_BYTES,
        queued=QUEUED_BYTES,
        unit=UNIT,
        control=_listener(layout, layout.control_port),
        fetch=_listener(layout, layout.fetch_port),
    )


def unit(layout: Layout) -> str:
    """Return the systemd service that runs the broker, bounded in memory and files."""
    high = memory_bytes(layout)
    return _UNIT_TEXT.format(
        program=layout.program,
        user=layout.user,
        folder=layout.folder,
        home=layout.home,
        configuration=CONFIGURATION,
        state=STATE,
        devices=layout.devices,
        high=high,
        most=high + high // 4,
    )


def memory_bytes(layout: Layout) -> int:
    """Return what a broker takes that is full: 300 MiB in chunks took 1 % more than their bytes."""
    retained = layout.budget_bytes + layout.budget_bytes // 10
    return BASE_BYTES + layout.devices * BYTES_A_DEVICE + retained


def _listener(layout: Layout, port: int) -> str:
    return _LISTENER.format(
        port=port,
        address=layout.address,
        folder=layout.folder,
        ca=CA,
        certificate=CERTIFICATE,
        key=KEY,
        revoked=REVOKED,
    )
