"""What there is to say of an image or a sound before training."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Examined(NamedTuple):
    """An input that has been looked at, all of it."""

    reason: str | None
    """Why training could not use it, in a few words; None where it can."""
    digest: int
    """64 bits of what it shows or sounds like, the same for the same content; 0 where it is unreadable."""
    seconds: float = 0.0
    """How long it lasts; an image does not."""


def digest64(*parts: bytes) -> int:
    """64 bits that stand for the bytes."""
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little")
