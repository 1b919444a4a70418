"""How a page of HTML is answered: it may load nothing, and run nothing."""

from __future__ import annotations

from fastapi.responses import HTMLResponse

HTML = "text/html"
# A page is opened beside others, and holds what strangers named.
ALONE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def alone(page: str) -> HTMLResponse:
    return HTMLResponse(page, headers=ALONE)
