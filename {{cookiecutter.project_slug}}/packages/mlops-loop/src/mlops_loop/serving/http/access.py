"""Which requests need an API key, and which come from this machine."""

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

OPEN_PATHS = {
    "/",
    "/page.js",
    "/docs",
    "/docs/oauth2-redirect",
    "/openapi.json",
    "/metrics",
    "/v2",
}
OPEN_PREFIXES = ("/health/", "/v2/health/", "/static-offline-docs/")
MODEL_READY = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/ready")


def is_open(path: str) -> bool:
    """Return whether a path needs no key: pages, health, metrics, documentation."""
    if path in OPEN_PATHS or path.startswith(OPEN_PREFIXES):
        return True
    return MODEL_READY.fullmatch(path) is not None


def is_local(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request names this machine as host, and comes from no other site's page.

    Browsers send what any page tells them to, also to this machine.
    """
    host = headers.get(b"host", b"").lower()
    origin = headers.get(b"origin", b"").lower()
    return is_loopback(host) and (not origin or origin.partition(b"://")[2] == host)


@lru_cache(64)
def is_loopback(host: bytes) -> bool:
    name = re.sub(r":\d+$", "", host.decode("latin-1")).strip("[]")
    if name in ("", "localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
