# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores from a store without the program that made it. It lies in every store, beside the data.

    python3 reader.py STORE                             list the restore points
    python3 reader.py STORE POINT                       list its disks and files
    python3 reader.py STORE POINT DISK-OR-FILE TARGET   write one of them to a new file

Python 3.6 or newer, with the library zstandard or the program zstd; for an encrypted store also the library
cryptography, and its passphrase or recovery key in STOWAGE_PASSPHRASE. What is read is proven by its hash; for
a BLAKE3 store that needs the library blake3. A store in a bucket: copy it to a folder first.
"""

# pylint: disable=ansible-bad-function  # a program of its own: no AnsibleModule is there
import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple


def library(name: str) -> Any:
    with contextlib.suppress(ImportError):
        return __import__(name, fromlist=[""])


zstandard, blake3 = library("zstandard"), library("blake3")


def fail(text: str) -> NoReturn:
    sys.exit("reader.py: " + text)


def hkdf(key: bytes, info: bytes, salt: bytes = b"") -> bytes:
    return hmac.new(hmac.new(salt or bytes(32), key, "sha256").digest(), info + b"\1", "sha256").digest()


def aes(key: bytes) -> Any:
    ciphers = library("cryptography.hazmat.primitives.ciphers.aead")
    return ciphers.AESGCM(key) if ciphers else fail("this store is encrypted: install the Python library cryptography")


def unpacked(codec: int, payload: bytes, most: int) -> bytes:
    """The first bytes of what a codec makes of it: all of it may be far more than there is memory for."""
    if codec != 1:
        return zlib.decompressobj().decompress(payload, most) if codec == 2 else payload
    if zstandard:
        return bytes(zstandard.ZstdDecompressor().stream_reader(payload).read(most))
    if not shutil.which("zstd"):
        fail("this store is compressed: install the Python library zstandard, or the program zstd")
    words = ["sh", "-c", f"zstd -dcq | head -c {most}"]
    return subprocess.run(words, input=payload, stdout=subprocess.PIPE, check=False).stdout


class Store:
    def __init__(self, root: str) -> None:
        self.root = Path(root)
        if not (self.root / "config.json").is_file():
            fail(root + " is no store: it has no config.json. Give the store's own folder, where reader.py lies")
        self.config = json.loads((self.root / "config.json").read_bytes().split(b"\n")[0])
        if (self.config["format"], self.config["version"]) != ("stowage-store", 1):
            fail(f"this store has version {self.config['version']}, this program reads version 1")
        if self.config["hash"] == "blake3" and blake3 is None:
            print("reader.py: without the Python library blake3 nothing is proven by its hash", file=sys.stderr)
        self.master = self.unlock() if self.config.get("encryption") else b""

    def files(self, above: str) -> List[Path]:
        return sorted(path for path in (self.root / above).rglob("[!.]*") if path.is_file())

    def unlock(self) -> bytes:
        given = os.environ.get("STOWAGE_PASSPHRASE")
        if not given:
            fail("this store is encrypted: put its passphrase or recovery key into STOWAGE_PASSPHRASE")
        typed = given.upper().replace("-", "").replace(" ", "")
        for path in self.files("keys"):
            with contextlib.suppress(Exception):
                slot = json.loads(path.read_bytes().split(b"\n")[0])
                salt = bytes.fromhex(slot["salt"])
                if slot["kdf"] == "none":
                    key = hkdf(base64.b32decode(typed + "=" * (-len(typed) % 8))[:32], b"recovery", salt)
                else:
                    how = {"salt": salt, "maxmem": 1 << 29, "dklen": 32, **{word: slot[word] for word in "nrp"}}
                    key = hashlib.scrypt(given.encode("utf-8", "surrogateescape"), **how)
                return bytes(aes(key).decrypt(bytes(12), bytes.fromhex(slot["wrapped"]), self.config["id"].encode()))
        fail("no key in keys/ opens with what is in STOWAGE_PASSPHRASE")

    def points(self) -> Iterator[Tuple[str, Any]]:
        for path in self.files("points"):
            try:
                data = path.read_bytes()
                if data[:8] == b"STOWENC1":
                    data = aes(hkdf(self.master, b"file", data[8:40])).decrypt(bytes(12), data[40:], b"STOWENC1")
                point = json.loads(data.split(b"\n")[0])
                if not point.get("revoked"):
                    yield point["point"], point
            except Exception as error:
                print(f"reader.py: {path} cannot be read, it is left out: {error!r:.200}", file=sys.stderr)

    def index(self) -> Dict[bytes, List[Tuple[Path, int, int, int, int]]]:
        """Where every record lies, from the tables of contents at the ends of the packs."""
        found: Dict[bytes, List[Tuple[Path, int, int, int, int]]] = {}
        for path in self.files("packs"):
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - 48))
                magic, count, offset, total = struct.unpack("<8sI4xQQ", file.read(32).ljust(32, b"\0"))
                if magic != b"STOWTOC1" or total != size:
                    print(f"reader.py: {path} has no end, it is left out", file=sys.stderr)
                    continue
                file.seek(offset)
                table = file.read(64 * min(count, 131072))
                entries = struct.iter_unpack("<32s16xIII4x", table[: len(table) // 64 * 64])
                for number, (identity, place, stored, length) in enumerate(entries):
                    found.setdefault(identity, []).append((path, place, stored, length, number))
        return found

    def read(self, identity: bytes) -> bytes:
        """The bytes of one record, proven as far as this machine can; of several, the first that is whole."""
        if identity not in self.places:
            fail(f"chunk {identity.hex()} is in no pack: a part of the store is missing")
        for path, place, stored, length, nth in self.places[identity]:
            data, length = b"", min(length, 64 << 20)
            with contextlib.suppress(Exception):
                with path.open("rb") as file:
                    salt = file.read(64)[32:]
                    file.seek(place)
                    head, payload = file.read(64), file.read(min(stored, 65 << 20))
                if self.master:
                    payload = aes(hkdf(self.master, b"pack", salt)).decrypt(nth.to_bytes(12, "big"), payload, head)[16:]
                data = unpacked(head[4], payload, length + 1)
            if len(data) == length and self.identity(data) in (identity, None):
                return data
        fail(f"chunk {identity.hex()} in {path} is damaged; another restore point may be whole")

    def identity(self, data: bytes) -> Optional[bytes]:
        sha256 = self.config["hash"] == "sha256"
        if not sha256 and blake3 is None:
            return None
        name = (hashlib.sha256 if sha256 else blake3.blake3)(data).digest()
        if self.master:
            key = hkdf(self.master, b"id")
            name = hmac.new(key, name, "sha256").digest() if sha256 else blake3.blake3(name, key=key).digest()
        return bytes(name)

    def write(self, part: Any, target: str) -> None:
        self.places = self.index()
        with open(target, "xb") as file:
            if "key" not in part:
                file.write(self.read(bytes.fromhex(part["id"])) if part["id"] else b"")
                return
            file.truncate(part["bytes"])
            for number, page in enumerate(part["pages"]):
                slots = self.read(bytes.fromhex(page)) if page else b""
                if (number * 1024 + len(slots) // 48 - 1) * part["chunk_bytes"] >= max(1, part["bytes"]):
                    fail("a map goes on behind the end of its disk")
                for at in range(0, len(slots), 48):
                    if slots[at : at + 32] != bytes(32):
                        file.seek((number * 1024 + at // 48) * part["chunk_bytes"])
                        file.write(self.read(slots[at : at + 32]))
            if file.seek(0, 2) != part["bytes"]:
                fail("the disk came out with another size")


def main(words: List[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return
    if len(words) not in (1, 2, 4):
        fail(f"give STORE, or STORE POINT, or STORE POINT DISK-OR-FILE TARGET; these were {len(words)} words")
    store = Store(words[0])
    points, parts = dict(store.points()), {}
    if len(words) > 1:
        if words[1] not in points:
            fail(f"there is no restore point {words[1]}: give the whole id of one that reader.py lists for STORE alone")
        parts = {one.get("key", one.get("name")): one for one in points[words[1]]["files"] + points[words[1]]["disks"]}
    if len(words) == 4:
        if words[2] not in parts:
            fail(f"{words[1]} has no disk and no file {words[2]}; it has: {', '.join(parts):.500}")
        if os.path.lexists(words[3]):
            fail(f"{words[3]} is there already: give a TARGET that is not")
        store.write(parts[words[2]], words[3])
    elif len(words) == 2:
        print("\n".join(f"{name} {one['bytes']} bytes" for name, one in parts.items()))
    else:
        print("\n".join(f"{name} {points[name]['machine']['name']}" for name in sorted(points)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        fail(f"this store, or what was asked of it, is not as it must be: {type(error).__name__}: {error!s:.300}")
