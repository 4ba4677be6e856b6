# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a chunk is called, and how its bytes are checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Callable

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports

ID_BYTES = 32
CHECK_BYTES = 16
HASHES = ("sha256", "blake3")


class Identity:
    """The hash of one store. With a key its ids say nothing about the content to whoever lacks the key."""

    def __init__(self, name: str, seed: int, key: bytes | None = None) -> None:
        if name not in HASHES:
            raise ValueError(f"unknown hash {name!r}: one of {', '.join(HASHES)}")
        xxhash = imports.load("xxhash", purpose="the dedup store")
        self.name = name
        self.seed = seed
        self._xxh: Callable[..., bytes] = xxhash.xxh3_128_digest
        self.of: Callable[[Any], bytes] = self._make(name, key)
        """The id of some bytes: 32 bytes."""

    def check(self, data: Any) -> bytes:
        """XXH3-128 with the store's seed: near memory speed, against damage, not against malice."""
        return self._xxh(data, seed=self.seed)

    def _make(self, name: str, key: bytes | None) -> Callable[[Any], bytes]:
        if name == "blake3":
            blake3 = imports.load("blake3", purpose="a store with the hash blake3").blake3
            if key is None:
                return lambda data: blake3(data).digest()
            return lambda data: blake3(data, key=key).digest()
        if key is None:
            return lambda data: hashlib.sha256(data).digest()
        # HMAC by hand: hashlib lets other threads run while it hashes a chunk, hmac does not in every version.
        block = key.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

        def keyed(data: Any) -> bytes:
            first, second = inner.copy(), outer.copy()
            first.update(data)
            second.update(first.digest())
            return second.digest()

        return keyed


def record_check(*parts: Any) -> bytes:
    """XXH3-128, seed 0, of several pieces as one."""
    return stream_check(parts)


def stream_check(parts: Iterable[Any]) -> bytes:
    """The same of as many pieces as come."""
    engine = imports.load("xxhash", purpose="the dedup store").xxh3_128()
    for part in parts:
        engine.update(part)
    digest: bytes = engine.digest()
    return digest
