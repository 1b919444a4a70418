"""How hard a law is tried: enough to kill a broken line, quick enough to be run at every save."""

from __future__ import annotations

from hypothesis import settings

tried = settings(max_examples=50, deadline=None)
