# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption: one master key, wrapped by several passphrases or keys, and a subkey for every file."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16
MAGIC = b"STOWENC1"
SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}
_SCRYPT_LIMIT = 1 << 28


class WrongKey(StowageError):
    id = "store-wrong-key"
    template = "None of the {count} keys of the store {store} opens with what was given"
    hint = "Give the passphrase that was set for this store, or its printed recovery key."
    exit_code = 67


class KeyNeeded(WrongKey):
    id = "store-key-needed"
    template = "The store {store} is encrypted, and no passphrase was given"
    hint = "Give its passphrase or its recovery key {ways}."


def hkdf(key: bytes, info: bytes, salt: bytes = b"", length: int = 32) -> bytes:
    """RFC 5869 with SHA-256."""
    extracted = hmac.digest(salt or b"\0" * 32, key, "sha256")
    block, out, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        out += block
        counter += 1
    return out[:length]


class Vault:
    """What follows from the master key."""

    def __init__(self, master: bytes) -> None:
        self._master = master
        self._aes = imports.load(
            "cryptography.hazmat.primitives.ciphers.aead", purpose="an encrypted store", name="cryptography"
        ).AESGCM
        self.id_key = hkdf(master, b"id")
        self.seed = int.from_bytes(hkdf(master, b"seed", length=8), "big")

    def pack(self, salt: bytes) -> PackCipher:
        return PackCipher(self._aes(hkdf(self._master, b"pack", salt)))

    def seal(self, data: bytes) -> bytes:
        """A whole small file, under a subkey of its own."""
        salt = secrets.token_bytes(SALT_BYTES)
        sealed: bytes = self._aes(hkdf(self._master, b"file", salt)).encrypt(bytes(12), data, MAGIC)
        return MAGIC + salt + sealed

    def open(self, data: bytes, name: str, store: str) -> bytes:
        if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + SALT_BYTES + TAG_BYTES:
            raise Damaged(name=name, store=store, reason="it is not an encrypted file of this store")
        salt, body = data[len(MAGIC) : len(MAGIC) + SALT_BYTES], data[len(MAGIC) + SALT_BYTES :]
        try:
            plain: bytes = self._aes(hkdf(self._master, b"file", salt)).decrypt(bytes(12), body, MAGIC)
        except Exception as error:  # cryptography raises InvalidTag, which has no words
            raise Damaged(name=name, store=store, reason="it does not decrypt: changed, or of another store") from error
        return plain

    def wrap(self, slot: str, secret: bytes, store_id: str, kdf: str = "scrypt") -> dict[str, Any]:
        """A key file for one more passphrase (`scrypt`) or random key (`none`)."""
        salt = secrets.token_bytes(SALT_BYTES)
        entry: dict[str, Any] = {"slot": slot, "kdf": kdf, "salt": salt.hex()}
        if kdf == "scrypt":
            entry.update(SCRYPT)
        wrapped = self._aes(_derive(entry, secret)).encrypt(bytes(12), self._master, store_id.encode())
        return {**entry, "wrapped": wrapped.hex()}


class PackCipher:
    """One pack's subkey; a record's number is its nonce."""

    def __init__(self, aes: Any) -> None:
        self._aes = aes

    def seal(self, number: int, header: bytes, data: Any) -> bytes:
        sealed: bytes = self._aes.encrypt(number.to_bytes(12, "big"), data, header)
        return sealed

    def open(self, number: int, header: bytes, payload: Any, name: str, store: str) -> bytes:
        try:
            plain: bytes = self._aes.decrypt(number.to_bytes(12, "big"), payload, header)
        except Exception as error:  # cryptography raises InvalidTag, which has no words
            raise Damaged(name=name, store=store, reason="a record does not decrypt: it was changed") from error
        return plain


def new_vault() -> Vault:
    return Vault(secrets.token_bytes(KEY_BYTES))


def unlock(slots: list[dict[str, Any]], secret: bytes, store_id: str, store: str) -> Vault:
    """The vault that one of the slots opens to this passphrase or recovery key; `WrongKey` if none does."""
    aes = imports.load(
        "cryptography.hazmat.primitives.ciphers.aead", purpose="an encrypted store", name="cryptography"
    ).AESGCM
    candidates = [secret]
    recovered = recovery_bytes(secret)
    for slot in slots:
        for candidate in [recovered] if slot.get("kdf") == "none" and recovered else candidates:
            try:
                key = _derive(slot, candidate)
                master = aes(key).decrypt(bytes(12), bytes.fromhex(slot["wrapped"]), store_id.encode())
            except Exception:  # noqa: S112  a slot that does not open is another one's
                continue
            return Vault(master)
    raise WrongKey(count=len(slots), store=store)


def _derive(slot: dict[str, Any], secret: bytes) -> bytes:
    salt = bytes.fromhex(slot["salt"])
    if slot["kdf"] == "none":
        return hkdf(secret, b"recovery", salt)
    cost = {name: int(slot[name]) for name in SCRYPT}
    # A key file from a stranger's store must not cost the reader his memory.
    if min(cost.values()) < 1 or cost["p"] > 16 or 128 * cost["n"] * cost["r"] > _SCRYPT_LIMIT:
        raise ValueError("scrypt costs out of range")
    return hashlib.scrypt(secret, salt=salt, maxmem=2 * _SCRYPT_LIMIT - 1, dklen=32, **cost)


def recovery_text(key: bytes) -> str:
    """A random key for paper: base32 in groups of four, a checksum of three bytes at its end."""
    text = base64.b32encode(key + hashlib.sha256(key).digest()[:3]).decode().rstrip("=")
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def recovery_bytes(typed: bytes) -> bytes | None:
    """The key that was typed from paper; None when it is not one, or has a slip in it."""
    text = typed.decode("ascii", "ignore").upper().replace("-", "").replace(" ", "").strip()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return None
    if len(raw) != KEY_BYTES + 3 or hashlib.sha256(raw[:KEY_BYTES]).digest()[:3] != raw[KEY_BYTES:]:
        return None
    return raw[:KEY_BYTES]
