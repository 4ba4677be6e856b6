# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store asks of the place it lies in. The docstrings are the contract; one suite holds every backend to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any


class Upload(ABC):
    """A new object under way. It is not there before `commit` returns, and never there in part."""

    @abstractmethod
    def append(self, parts: Sequence[Any]) -> None:
        """Adds the pieces, in order."""

    @abstractmethod
    def commit(self) -> None:
        """Durable under its name when it returns; `ObjectExists` when the name is taken. Ends the upload."""

    @abstractmethod
    def abort(self) -> None:
        """Nothing of it stays. After `commit` it does nothing."""

    def lend(self) -> Any:
        """What a lane of a disk on the place's own machine appends to (see `sources.KeepingLane`); only where the
        backend `keeps_chunks`. What is appended here after that comes behind it."""
        raise ValueError("nobody but this process can append to it")


class Ranges(ABC):
    """One object, open for reads from anywhere in it. Serves several threads."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the object."""

    @abstractmethod
    def read(self, offset: int, length: int) -> Any:
        """Exactly these bytes (anything with the buffer protocol); `Damaged` when the object ends before."""

    def expect(self, extents: Iterable[tuple[int, int]]) -> None:  # noqa: B027  most places have no use for it
        """(offset, length) of what this thread reads next: where a request costs more than its bytes, neighbours are
        fetched together."""

    def proofs(self, records: Sequence[tuple[int, int, int]], deep: bool) -> Sequence[tuple[bytes, bytes] | None]:
        """Where the place's own machine can look at records of a pack (offset, bytes of what they hold, and before
        compression): the head of each whose sum it has found right and, with `deep`, the SHA-256 of what it holds.
        None for those that are to be read. Only in stores whose sums are SHA-256."""
        return [None] * len(records)

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds."""

    def __enter__(self) -> Ranges:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """Named objects. Names have parts of `[A-Za-z0-9._-]` between slashes; no part begins with a dot.

    All calls raise `BackendFailed` for what the place does. Serves several threads.
    """

    name: str
    """The place in words, for messages."""
    keeps_chunks = False
    """Whether the place's own machine packs chunks of its disks itself (see `Upload.lend`). It has only what any Python
    has, sees all that is stored, and likes few large files: a new store there has sums that are SHA-256, zlib, large
    packs, and no encryption."""

    @abstractmethod
    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        """A whole small object; `ObjectMissing`; `Damaged` when it is larger than `limit`."""

    @abstractmethod
    def open(self, name: str) -> Ranges:
        """An object for reads in the middle; `ObjectMissing`, at the latest when it is read."""

    @abstractmethod
    def map(self, name: str) -> Any:
        """A whole large object as a read-only buffer that costs no memory of its own where the place allows it."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """A new object, durable on return. Of several that create one name at once exactly one does; the others get
        `ObjectExists`."""

    @abstractmethod
    def upload(self, name: str) -> Upload:
        """A new large object, in pieces."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Name and size of every object whose name begins with `prefix`, which ends with a slash; in no order.
        What was created before the call is there; what is created or deleted meanwhile may be."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """It is gone, durably; no error when it was not there."""

    @abstractmethod
    def tidy(self) -> None:
        """Removes what uploads have left whose process has died; never what a living one works on."""

    def same_place(self, other: Backend) -> bool:
        """Whether both are one place, by whatever words it was named."""
        return self is other

    def room(self) -> tuple[int, int] | None:
        """All bytes of the file system that it lies on, and those that are free; None where there is none to fill."""
        return None

    def check(self) -> None:  # noqa: B027  most places cannot but keep it
        """Proves that the place gives a name only once; before the first store is made there."""

    def close(self) -> None:  # noqa: B027  a backend without connections has nothing to do
        """Frees what it holds."""
