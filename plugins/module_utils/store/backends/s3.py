# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a bucket: no rename, no append; a put is whole or not there, and a conditional put has one winner.

The server must refuse a put with `If-None-Match: *` onto a name that is taken; `check` proves that it does.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend, Ranges, Upload
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.windowed import WindowedRanges
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    Damaged,
    ObjectExists,
    ObjectMissing,
)

_T = TypeVar("_T")
_TOKEN = "stowage-put"
_ATTEMPTS = 8
# Seconds before the second attempt, twice as many before each other one, up to the longest.
_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_PIECE = 1 << 20


class S3Ranges(WindowedRanges):
    def __init__(self, backend: S3Backend, name: str) -> None:
        super().__init__(name, backend.name)
        self._backend = backend
        self._size: int | None = None

    @property
    def size(self) -> int:
        if self._size is None:
            self._size = self._backend.size_of(self._name)
        return self._size

    def fetch(self, offset: int, length: int) -> bytes:
        return self._backend.get(self._name, offset, length)


class S3Upload(Upload):
    """Spooled to a file without a name on this machine: a put needs its length, and may have to be sent again."""

    def __init__(self, backend: S3Backend, name: str) -> None:
        self._backend, self._name = backend, name
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by commit or abort

    def append(self, parts: Sequence[Any]) -> None:
        with self._backend.told(self._name, "written"):
            for part in parts:
                self._file.write(part)

    def commit(self) -> None:
        with self._file:
            self._backend.put(self._name, self._file)

    def abort(self) -> None:
        self._file.close()


class S3Backend(Backend):
    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        region: str = "us-east-1",
        timeout_seconds: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        boto3 = imports.load("boto3", purpose="a store in a bucket")
        config = imports.load("botocore.config", purpose="a store in a bucket", name="boto3").Config(
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            connect_timeout=10,
            read_timeout=timeout_seconds,
            max_pool_connections=16,
            # Our own checksums prove more than a transport's.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._errors = imports.load("botocore.exceptions", purpose="a store in a bucket", name="boto3")
        broken = imports.load("urllib3.exceptions", purpose="a store in a bucket", name="boto3").HTTPError
        self._cut = (
            broken,
            self._errors.ResponseStreamingError,
            self._errors.IncompleteReadError,
            self._errors.ReadTimeoutError,
        )
        self._clock = clock or SystemClock()
        self._failed = (self._errors.BotoCoreError, self._errors.HTTPClientError, broken, OSError)
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.name = f"s3://{bucket}/{self._prefix}".rstrip("/")
        try:
            self._client = boto3.session.Session(access_key, secret_key, region_name=region).client(
                "s3", endpoint_url=endpoint, config=config
            )
        except (*self._failed, ValueError) as error:
            raise BackendFailed(name="the bucket", store=self.name, done="reached", reason=str(error)) from error

    @contextlib.contextmanager
    def told(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except self._errors.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code in ("NoSuchKey", "404", "NotFound"):
                raise ObjectMissing(name=name, store=self.name) from error
            if code in ("InvalidRange", "416"):
                raise Damaged(name=name, store=self.name, reason="it ends before the bytes that are due") from error
            if code in ("PreconditionFailed", "412"):
                raise ObjectExists(name=name, store=self.name) from error
            raise BackendFailed(name=name, store=self.name, done=done, reason=str(error)) from error
        except self._failed as error:
            raise BackendFailed(name=name, store=self.name, done=done, reason=str(error)) from error

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def get(self, name: str, offset: int, length: int) -> bytes:
        return self._body(
            name, lambda body, due: self._whole(body.read(), due), f"bytes={offset}-{offset + length - 1}"
        )

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        data = self._body(name, lambda body, due: self._whole(body.read(limit + 1), min(due, limit + 1)))
        if len(data) > limit:
            raise Damaged(name=name, store=self.name, reason=f"it is larger than {limit} bytes")
        return data

    def _body(self, name: str, take: Callable[[Any, int], _T], wanted: str = "") -> _T:
        """What `take` makes of an object's bytes, or of the wanted range of them, and their number.

        The client asks again for an answer that does not come, and not for one whose bytes end too early: that is done
        here."""
        last: Exception | None = None
        more = {"Range": wanted} if wanted else {}
        for attempt in range(_ATTEMPTS):
            with self.told(name, "read"):
                answer = self._client.get_object(**self._key(name), **more)
                try:
                    with contextlib.closing(answer["Body"]) as body:
                        return take(body, answer["ContentLength"])
                except self._cut as error:
                    last = error
            self._clock.sleep(min(_LONGEST_PAUSE, _PAUSE * 2**attempt))
        reason = f"its bytes end too early each of {_ATTEMPTS} times: {last}"
        raise BackendFailed(name=name, store=self.name, done="read", reason=reason) from last

    def _whole(self, data: bytes, due: int) -> bytes:
        """A read of so many bytes at most takes the end of a cut line for the end of the object."""
        if len(data) != due:
            raise self._errors.IncompleteReadError(actual_bytes=len(data), expected_bytes=due)
        return data

    def open(self, name: str) -> Ranges:
        return S3Ranges(self, name)

    def size_of(self, name: str) -> int:
        with self.told(name, "read"):
            size: int = self._client.head_object(**self._key(name))["ContentLength"]
        return size

    def map(self, name: str) -> Any:
        """By way of a file without a name: its pages are the kernel's, not ours."""
        with self.told(name, "read"), tempfile.TemporaryFile() as file:

            def spool(body: Any, due: int) -> int:
                file.seek(0)
                file.truncate()
                for at in range(0, due, _PIECE):
                    file.write(self._whole(body.read(_PIECE), min(_PIECE, due - at)))
                file.flush()
                return due

            if self._body(name, spool) == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def create(self, name: str, data: bytes) -> None:
        self.put(name, data)

    def put(self, name: str, body: Any) -> None:
        """`body`: bytes, or a file at its begin."""
        token = secrets.token_hex(16)
        try:
            with self.told(name, "written"):
                self._put(name, body, token)
        except ObjectExists:
            # A put whose answer was lost is sent again by the client, and meets itself.
            if self._token(name) != token:
                raise

    def _token(self, name: str) -> str | None:
        """Of the put that made it; None where whoever made it has removed it meanwhile."""
        with contextlib.suppress(ObjectMissing), self.told(name, "read"):
            found = self._client.head_object(**self._key(name))
            return cast("str | None", found.get("Metadata", {}).get(_TOKEN))
        return None

    def _put(self, name: str, body: Any, token: str) -> None:
        """Amazon answers 409 where something else goes on with that name, a deletion for one, and says nothing of
        whether the name is taken; the client does not ask again by itself."""
        for attempt in range(_ATTEMPTS):
            if hasattr(body, "seek"):
                body.seek(0)
            try:
                self._client.put_object(**self._key(name), Body=body, IfNoneMatch="*", Metadata={_TOKEN: token})
            except self._errors.ClientError as error:
                code = str(error.response.get("Error", {}).get("Code"))
                if code not in ("ConditionalRequestConflict", "409") or attempt == _ATTEMPTS - 1:
                    raise
                self._clock.sleep(min(_LONGEST_PAUSE, _PAUSE * 2**attempt))
            else:
                return

    def upload(self, name: str) -> Upload:
        return S3Upload(self, name)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self.told(prefix, "listed"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"][len(self._prefix) :], entry["Size"]

    def delete(self, name: str) -> None:
        with self.told(name, "deleted"), contextlib.suppress(ObjectMissing):
            self._client.delete_object(**self._key(name))

    def tidy(self) -> None:
        """A put leaves nothing behind, and the spool files have no names."""

    def same_place(self, other: Backend) -> bool:
        return isinstance(other, S3Backend) and self._where() == other._where()

    def _where(self) -> tuple[str, str]:
        return str(self._client.meta.endpoint_url).rstrip("/"), self.name

    def check(self) -> None:
        """Proves that the server gives a name only once; `BackendFailed` when it gives it twice."""
        name = f"check/{secrets.token_hex(8)}"
        self.create(name, b"1")
        try:
            self.create(name, b"2")
        except ObjectExists:
            return
        finally:
            self.delete(name)
        raise BackendFailed(
            name=name, store=self.name, done="created once", reason="the server ignores If-None-Match; it is not usable"
        )

    def close(self) -> None:
        self._client.close()
