"""Documents with one value replaced anywhere, as a faulty or hostile peer may send them."""

from __future__ import annotations

import json

import msgspec
from hypothesis import strategies as st

from wherry.codec import encode

STRANGE = st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3)
NUMBERS = st.sampled_from([-(10**30), 10**30, 1 << 63, 1 << 53, 0.5, 1e300])


@st.composite
def altered(draw: st.DrawFn, document: msgspec.Struct) -> bytes:
    """Draw the bytes of `document` with one value, at any depth, replaced by another."""
    whole = json.loads(encode(document))
    at = whole
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.booleans()):
            break
        at = at[key]
    at[key] = draw(STRANGE | NUMBERS | st.just([]) | st.just({}))
    return json.dumps(whole).encode()
