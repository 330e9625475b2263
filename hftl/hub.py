"""Whether the Hub is worth asking: without a connection its client retries for a minute or more before it says so."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Literal


def worth_asking(kind: Literal["models", "datasets"], name: str) -> bool:
    """Whether a copy of it lies in the cache, or the Hub's host has an address (a proxy may know what we don't)."""
    from huggingface_hub import constants

    if (Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}").exists() or urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True
