# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compression of one record. Each call stands alone: any record can be read without another one."""

from __future__ import annotations

import threading
import zlib
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged

RAW, ZSTD, ZLIB = 0, 1, 2
# With the window and matches of level 2, and a table that fits into a core's cache: measured on system disks in chunks
# of 1 MiB, 2.5 % smaller than the level as it comes, for a tenth more of the compression's time.
_LEVEL_1 = {"window_log": 20, "hash_log": 15, "min_match": 6}
NAMES = {"none": RAW, "zstd": ZSTD, "zlib": ZLIB}


class Codec:
    """Compresses with one setting, expands whatever there is. One object serves all threads."""

    def __init__(self, name: str = "zstd", level: int = 1) -> None:
        if name not in NAMES:
            raise ValueError(f"unknown codec {name!r}: one of {', '.join(NAMES)}")
        self.number = NAMES[name]
        self.level = level
        self._zstd = imports.load("zstandard", purpose="the dedup store")
        self._own = threading.local()

    def compress(self, view: memoryview) -> tuple[int, Any]:
        """The codec's number and the bytes; what does not get smaller is kept as it is."""
        if self.number == ZSTD:
            packed = self._compressor().compress(view)
        elif self.number == ZLIB:
            packed = zlib.compress(view, self.level)
        else:
            return RAW, view
        return (RAW, view) if len(packed) >= len(view) else (self.number, packed)

    def expand(self, number: int, payload: Any, length: int, name: str = "", store: str = "") -> Any:
        """The bytes before compression, exactly `length` of them. Never makes more room than that."""
        if number == RAW:
            data = payload
        elif number == ZSTD:
            try:
                # What a frame says of its length it would be given room for, whatever it holds.
                if self._zstd.frame_content_size(payload) not in (-1, length):
                    raise Damaged(name=name, store=store, reason=f"a frame that is not of the {length} bytes due")
                data = self._decompressor().decompress(payload, max_output_size=length)
            except self._zstd.ZstdError as error:
                raise Damaged(name=name, store=store, reason=str(error)) from error
        elif number == ZLIB:
            engine = zlib.decompressobj()
            try:
                data = engine.decompress(payload, length + 1)
            except zlib.error as error:
                raise Damaged(name=name, store=store, reason=str(error)) from error
        else:
            raise Damaged(name=name, store=store, reason=f"unknown codec {number}")
        if len(data) != length:
            raise Damaged(name=name, store=store, reason=f"{len(data)} bytes where {length} are due")
        return data

    def _compressor(self) -> Any:
        # One context a thread, kept: making one costs more than a chunk.
        if not hasattr(self._own, "compressor"):
            more = {} if self.level != 1 else _LEVEL_1
            params = self._zstd.ZstdCompressionParameters.from_level(self.level, write_checksum=False, **more)
            self._own.compressor = self._zstd.ZstdCompressor(compression_params=params)
        return self._own.compressor

    def _decompressor(self) -> Any:
        if not hasattr(self._own, "decompressor"):
            self._own.decompressor = self._zstd.ZstdDecompressor(max_window_size=1 << 27)
        return self._own.decompressor
