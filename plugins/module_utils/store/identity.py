# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a chunk is called, and how its bytes are checked."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, Callable

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports

ID_BYTES = 32
CHECK_BYTES = 16
HASHES = ("sha256", "blake3")
XXH3, SHA256 = "xxh3-128", "sha256-128"
CHECKS = (XXH3, SHA256)


class Identity:
    """The hash of one store. With a key its ids say nothing about the content to whoever lacks the key."""

    def __init__(self, name: str, seed: int, key: bytes | None = None, check: str = XXH3) -> None:
        if name not in HASHES:
            raise ValueError(f"unknown hash {name!r}: one of {', '.join(HASHES)}")
        xxhash = imports.load("xxhash", purpose="the dedup store")
        self.name = name
        self.seed = seed
        self.check_name = check
        self.record_check: Callable[..., bytes] = record_check if check == XXH3 else record_check_sha256
        """The sum of a record of a pack."""
        self._xxh: Callable[..., bytes] = xxhash.xxh3_128_digest
        self.plain: Callable[[Any], bytes] = _plain(name)
        """The hash of some bytes as anyone can make it, without the key: 32 bytes."""
        self._key = key

    def named(self, digest: bytes) -> bytes:
        """The id of the bytes that have this plain hash: whoever hashes them elsewhere needs no key."""
        if self._key is None:
            return digest
        if self.name == "blake3":
            blake3 = imports.load("blake3", purpose="a store with the hash blake3").blake3
            keyed: bytes = blake3(digest, key=self._key).digest()
            return keyed
        return hmac.digest(self._key, digest, "sha256")

    def of(self, data: Any) -> bytes:
        """The id of some bytes: 32 bytes."""
        return self.named(self.plain(data))

    def check(self, data: Any) -> bytes:
        """XXH3-128 with the store's seed: near memory speed, against damage, not against malice. In a store whose sums
        a hypervisor must be able to compute, the beginning of the SHA-256."""
        if self.check_name == SHA256:
            return hashlib.sha256(data).digest()[:CHECK_BYTES]
        return self._xxh(data, seed=self.seed)

    @property
    def plain_checks(self) -> bool:
        """Whether the check of a chunk is the beginning of its id."""
        return self.check_name == SHA256 and self.name == "sha256" and self._key is None


def _plain(name: str) -> Callable[[Any], bytes]:
    if name == "blake3":
        blake3 = imports.load("blake3", purpose="a store with the hash blake3").blake3
        return lambda data: blake3(data).digest()
    return lambda data: hashlib.sha256(data).digest()


def record_check(*parts: Any) -> bytes:
    """XXH3-128, seed 0, of several pieces as one."""
    return stream_check(parts)


def record_check_sha256(*parts: Any) -> bytes:
    """The beginning of the SHA-256 of several pieces as one."""
    engine = hashlib.sha256()
    for part in parts:
        engine.update(part)
    return engine.digest()[:CHECK_BYTES]


def stream_check(parts: Iterable[Any]) -> bytes:
    """The same of as many pieces as come."""
    engine = imports.load("xxhash", purpose="the dedup store").xxh3_128()
    for part in parts:
        engine.update(part)
    digest: bytes = engine.digest()
    return digest
