"""What tests ask servers on loopback, where there is no TLS and no proxy.

httpx reads all of the system's authorities for every client, and for every `httpx.get`: 40 ms of a
processor. Who asks again and again until a server is there takes them from that server.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import Final

import httpx

__all__ = ["async_client", "get", "post", "put"]

_NOBODY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

get = partial(httpx.get, verify=_NOBODY, trust_env=False, timeout=60)
post = partial(httpx.post, verify=_NOBODY, trust_env=False, timeout=60)
put = partial(httpx.put, verify=_NOBODY, trust_env=False, timeout=60)
async_client = partial(httpx.AsyncClient, verify=_NOBODY, trust_env=False, timeout=60)
