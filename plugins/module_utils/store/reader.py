# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores from a store without the program that made it. It lies in every store, beside the data.

    python3 reader.py STORE                             list the restore points
    python3 reader.py STORE POINT                       list its disks and files
    python3 reader.py STORE POINT DISK-OR-FILE TARGET   write one of them to a new file

Python 3.6 or newer, with the library zstandard or the program zstd; for an encrypted store also the library
cryptography, and its passphrase or recovery key in STOWAGE_PASSPHRASE. What is read is proven by its
hash; for a BLAKE3 store that needs the library blake3. A store in a bucket: copy it to a folder first.
"""

# pylint: disable=ansible-bad-function  # a program of its own: no AnsibleModule is there
import base64
import hashlib
import hmac
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple


def library(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


zstandard, blake3 = library("zstandard"), library("blake3")


def fail(text: str) -> NoReturn:
    sys.exit("reader.py: " + text)


def hkdf(key: bytes, info: bytes, salt: bytes = b"", length: int = 32) -> bytes:
    extracted = hmac.new(salt or bytes(32), key, "sha256").digest()
    return hmac.new(extracted, info + b"\1", "sha256").digest()[:length]


def aes(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        fail("this store is encrypted: install the Python library cryptography")
    return AESGCM(key)


def by_program(payload: bytes, most: int) -> bytes:
    """The first bytes of what the program zstd makes of it: it may be far more than there is memory for."""
    with tempfile.TemporaryFile() as packed:
        packed.write(payload)
        packed.seek(0)
        with subprocess.Popen(["zstd", "-dcq"], stdin=packed, stdout=subprocess.PIPE) as program:
            data = program.stdout.read(most) if program.stdout else b""
            program.kill()
    return data


def first_line(path: str) -> Any:
    with open(path, "rb") as file:
        return json.loads(file.readline())


class Store:
    def __init__(self, root: str) -> None:
        self.root = root
        self.config = first_line(os.path.join(root, "config.json"))
        if (self.config["format"], self.config["version"]) != ("stowage-store", 1):
            fail("a store of version {}; this program reads version 1".format(self.config["version"]))
        self.master = self.unlock() if self.config.get("encryption") else b""
        self.places = {}  # type: Dict[bytes, Tuple[str, int, int, int, int]]

    def unlock(self) -> bytes:
        given = os.environ.get("STOWAGE_PASSPHRASE")
        if given is None:
            fail("this store is encrypted: put its passphrase or recovery key into STOWAGE_PASSPHRASE")
        typed = given.upper().replace("-", "").replace(" ", "")
        for name in sorted(os.listdir(os.path.join(self.root, "keys"))):
            try:
                slot = first_line(os.path.join(self.root, "keys", name))
                salt = bytes.fromhex(slot["salt"])
                if slot["kdf"] == "none":
                    key = hkdf(base64.b32decode(typed + "=" * (-len(typed) % 8))[:32], b"recovery", salt)
                else:
                    cost = {word: slot[word] for word in ("n", "r", "p")}
                    secret = given.encode("utf-8", "surrogateescape")
                    key = hashlib.scrypt(secret, salt=salt, maxmem=1 << 29, dklen=32, **cost)
                return bytes(aes(key).decrypt(bytes(12), bytes.fromhex(slot["wrapped"]), self.config["id"].encode()))
            except Exception:
                continue
        fail("no key of this store opens with that")

    def points(self) -> Iterator[Any]:
        for folder, _folders, names in sorted(os.walk(os.path.join(self.root, "points"))):
            for name in sorted(names):
                if not name.startswith("."):
                    with open(os.path.join(folder, name), "rb") as file:
                        data = file.read()
                    if data[:8] == b"STOWENC1":
                        data = aes(hkdf(self.master, b"file", data[8:40])).decrypt(bytes(12), data[40:], b"STOWENC1")
                    point = json.loads(data.split(b"\n")[0])
                    if not point.get("revoked"):
                        yield point

    def index(self) -> Dict[bytes, Tuple[str, int, int, int, int]]:
        """Where every record lies, from the tables of contents at the ends of the packs."""
        found = {}
        for folder, _folders, names in os.walk(os.path.join(self.root, "packs")):
            for name in names:
                if not name.endswith(".pack") or name.startswith("."):
                    continue
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    size = os.path.getsize(path)
                    file.seek(max(0, size - 48))
                    magic, count, _zero, offset, total = struct.unpack("<8sIIQQ", file.read(32).ljust(32, b"\0"))
                    if magic != b"STOWTOC1" or total != size:
                        print(f"reader.py: {path} has no end, it is left out", file=sys.stderr)
                        continue
                    file.seek(offset)
                    for number in range(min(count, 131072)):
                        entry = file.read(64)
                        place, stored, length = struct.unpack_from("<III", entry, 48)
                        found[entry[:32]] = (path, place, stored, length, number)
        return found

    def read(self, identity: bytes) -> bytes:
        """The bytes of one record, proven as far as this machine can."""
        if not self.places:
            self.places = self.index()
        if identity not in self.places:
            fail(f"chunk {identity.hex()} is in no pack")
        path, place, stored, length, number = self.places[identity]
        if max(stored, length) > 65 << 20:
            fail(f"chunk {identity.hex()} in {path} claims to be longer than any can be")
        with open(path, "rb") as file:
            salt = file.read(64)[32:]
            file.seek(place)
            head, payload = file.read(64), file.read(stored)
        codec = head[4]
        if self.master:
            key = hkdf(self.master, b"pack", salt)
            payload = aes(key).decrypt(number.to_bytes(12, "big"), payload, head)[16:]
        if codec == 2:
            payload = zlib.decompressobj().decompress(payload, length + 1)
        elif codec == 1 and zstandard:
            if zstandard.frame_content_size(payload) not in (-1, length):
                fail(f"chunk {identity.hex()} in {path} is damaged")
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=length)
        elif codec == 1:
            payload = by_program(payload, length + 1)
        if len(payload) != length or self.identity(payload) not in (identity, None):
            fail(f"chunk {identity.hex()} in {path} is damaged")
        return bytes(payload)

    def identity(self, data: bytes) -> Optional[bytes]:
        key = hkdf(self.master, b"id") if self.master else b""
        if self.config["hash"] == "sha256":
            plain = hashlib.sha256(data).digest()
            return hmac.new(key, plain, "sha256").digest() if key else plain
        if blake3 is None:
            return None
        plain = blake3.blake3(data).digest()
        return bytes(blake3.blake3(plain, key=key).digest() if key else plain)


def write_disk(store: Store, disk: Any, target: str) -> None:
    with open(target, "xb") as file:
        file.truncate(disk["bytes"])
        for number, page in enumerate(disk["pages"]):
            slots = store.read(bytes.fromhex(page)) if page else b""
            if (number * 1024 + len(slots) // 48 - 1) * disk["chunk_bytes"] >= max(1, disk["bytes"]):
                fail("a map goes on behind the end of its disk")
            for at in range(0, len(slots), 48):
                identity = slots[at : at + 32]
                if identity != bytes(32):
                    file.seek((number * 1024 + at // 48) * disk["chunk_bytes"])
                    file.write(store.read(identity))
        if os.fstat(file.fileno()).st_size != disk["bytes"]:
            fail("the disk came out with another size")


def main(words: List[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return
    store = Store(words[0])
    points = sorted(store.points(), key=lambda point: point["point"])
    if len(words) == 1:
        for point in points:
            print(point["point"], point["machine"]["name"])
        return
    chosen = [point for point in points if point["point"] == words[1]]
    if not chosen:
        fail("there is no restore point " + words[1])
    if len(words) != 4:
        for disk in chosen[0]["disks"]:
            print(disk["key"], disk["bytes"], "bytes")
        for file in chosen[0]["files"]:
            print(file["name"], file["bytes"], "bytes")
        return
    for disk in chosen[0]["disks"]:
        if disk["key"] == words[2]:
            write_disk(store, disk, words[3])
            return
    for entry in chosen[0]["files"]:
        if entry["name"] == words[2]:
            with open(words[3], "xb") as file:
                file.write(store.read(bytes.fromhex(entry["id"])) if entry["id"] else b"")
            return
    fail(f"{words[1]} has no disk and no file {words[2]}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        fail("this store, or what was asked of it, is not as it must be: {!r:.300}".format(error))
