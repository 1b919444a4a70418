"""What metadata always says, condensed: the dictionary that packets are compressed with.

It is part of the format: another text, to the letter, would be another format of packets.
"""

from __future__ import annotations

from wherry.trust.condense import AGAIN, DIGEST, NUMBER, SIGNATURE

_HEAD = f'{{"signatures":[{{"keyid":"{DIGEST}","sig":"{SIGNATURE}"}}],"signed":{{"_type":"'
_ENDS = '","expires":"2027-01-15T08:00:00Z","'
_TAIL = f'"spec_version":"1.0.31","version":{NUMBER}}}}}'
_KEY = f'"{DIGEST}":{{"keytype":"ed25519","keyval":{{"public":"{DIGEST}"}},"scheme":"ed25519"}},'
_ROLE = f'{{"keyids":["{DIGEST}"],"threshold":{NUMBER}}},"'
_ROOT = (
    f'{_HEAD}root","consistent_snapshot":true{_ENDS[1:]}keys":{{{_KEY}{_KEY}}},"roles":{{"root":{_ROLE}'
    f'snapshot":{_ROLE}targets":{_ROLE}timestamp":{_ROLE}"}},"spec_version":"1.0.31",'
    f'"version":{NUMBER},"wherry":{{"director":{_ROLE}}}}}}}'
)
_TARGETS = (
    f'{_HEAD}targets","delegations":{{"keys":{{{_KEY}}},"succinct_roles":{{"bit_length":{NUMBER},'
    f'"keyids":["{DIGEST}"],"name_prefix":"bins","threshold":{NUMBER}}}}}{_ENDS[1:]}'
    f'spec_version":"1.0.31","targets":{{}},"version":{NUMBER},'
    f'"wherry":{{"min_release":{{"default":{NUMBER}}}}}}}}}'
)
_BINS = "".join(f'"bins-{number:02x}.json":{{"version":{NUMBER}}},' for number in range(256))
_SNAPSHOT = f'{_HEAD}snapshot{_ENDS}meta":{{{_BINS}"targets.json":{{"version":{NUMBER}}}}},{_TAIL}'
_ENTRY = (
    f'"{DIGEST}":{{"custom":{{"wherry":{{"model":"","needs":{{"":{NUMBER}}},"measuring":true,'
    f'"profile":"","releases":{{"default":{NUMBER}}},"version":"v1"}}}},"hashes":{{"sha256":'
    f'"{AGAIN}"}},"length":{NUMBER}}},'
)
_BIN = (
    f'{_HEAD}targets{_ENDS}spec_version":"1.0.31","targets":{{{_ENTRY}{_ENTRY}}},'
    f'"version":{NUMBER}}}}}'
)

SKELETON = f"{_ROOT}{_TARGETS}{_BIN}{_SNAPSHOT}"
