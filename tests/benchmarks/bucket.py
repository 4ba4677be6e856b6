# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a bucket: requests and client CPU beside bare puts, and what a restore fetches.

    python tests/benchmarks/bucket.py [--data FOLDER] [--gib N]

Backs up the first GiB of data of a benchmark disk to a real S3 server on this machine. The client CPU that the bucket
costs is that of the backup less that of the same backup into a folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "benchmark"
PACK_BYTES = 64 << 20


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("/var/tmp/stowage-benchmark-disks"))
    parser.add_argument("--gib", type=float, default=1.0)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=words.data, prefix="bucket-") as work:
        namespace = Path(work, "collections", "ansible_collections", "stowage")
        namespace.mkdir(parents=True)
        (namespace / "esxi").symlink_to(ROOT)
        sys.path[:0] = [str(Path(work, "collections")), str(ROOT / "tests" / "tools")]
        disk = Path(work, "disk.raw")
        _head(words.data / "full" / "web-1.raw", disk, int(words.gib * (1 << 30)))
        server = Path(work, "server")
        server.mkdir()
        import objectstore

        with objectstore.serving(server, BUCKET, volume_mebibytes=1024) as endpoint:
            return _measure(endpoint, disk, Path(work))


def _head(source: Path, target: Path, wanted: int) -> None:
    """As many bytes of data, from the disk's beginning; holes stay holes."""
    with open(source, "rb") as old, open(target, "wb") as new:
        place = 0
        while wanted > 0:
            begin = os.lseek(old.fileno(), place, os.SEEK_DATA)
            end = min(os.lseek(old.fileno(), begin, os.SEEK_HOLE), begin + wanted)
            for at in range(begin, end, 1 << 20):
                data = os.pread(old.fileno(), min(1 << 20, end - at), at)
                os.pwrite(new.fileno(), data, at)
            place, wanted = end, wanted - (end - begin)


def _measure(endpoint: str, disk: Path, work: Path) -> int:
    import objectstore
    from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, restore
    from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
    from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend
    from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

    access, secret = objectstore.KEYS
    bucket = S3Backend(BUCKET, "store", endpoint=endpoint, access_key=access, secret_key=secret)
    counted = Requests(bucket)
    folder = LocalBackend(str(work / "folder"))
    backends: list[Any] = [folder, bucket]
    costs = []
    for backend in backends:
        Store.create(backend)
        counted.clear()
        store = Store.open(backend)
        costs.append(_cpu(lambda store=store: backup.run(store, "m", "m", [backup.DiskInput("d", RawDisk(str(disk)))])))
    written = Counter(dict(counted))
    stored = sum(size for _name, size in bucket.list("packs/"))
    packs = sorted(size for _name, size in bucket.list("packs/"))
    body = os.urandom(packs[-1])
    client = objectstore.client(endpoint)

    def bare() -> None:
        for number, size in enumerate(packs):
            client.put_object(Bucket=BUCKET, Key=f"bare/{number}", Body=body[:size])

    puts = _cpu(bare)
    store = Store.open(bucket)
    point = store.points("m")[-1]
    counted.clear()
    target = work / "restored.raw"
    begin = time.perf_counter()
    told = restore.to_file(store, point.disks[0], str(target))
    seconds = time.perf_counter() - begin
    fetched = counted.bytes
    measure.same(disk, target)
    gib = told.written / (1 << 30)
    extra = costs[1] - costs[0]
    print(f"backup of {gib:.2f} GiB: {sum(written.values()) / gib:.0f} requests a GiB {dict(written)}, floor 75")
    print(f"client CPU of the bucket: {extra:.2f} s, of bare puts {puts:.2f} s: x {extra / puts:.2f}, floor 1.5")
    print(
        f"  (whole backup: into the bucket {costs[1]:.2f} s, into a folder {costs[0]:.2f} s; {stored >> 20} MiB stored)"
    )
    print(
        f"restore: {sum(counted.values()) / gib:.0f} requests a GiB {dict(counted)}, {seconds:.2f} s; "
        f"fetched {fetched / told.fetched:.3f} x the bytes it needs, floor 1.2"
    )
    good = sum(written.values()) / gib <= 75 and extra <= 1.5 * puts and fetched <= 1.2 * told.fetched
    return 0 if good else 1


class Requests(Counter[str]):
    """Requests of one client, by method, and the bytes that came back."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.bytes = 0
        events = backend._client.meta.events
        events.register("before-send.s3", self._sent)
        events.register("after-call.s3.GetObject", self._came)

    def clear(self) -> None:
        super().clear()
        self.bytes = 0

    def _sent(self, request: Any, **_more: Any) -> None:
        self[request.method] += 1

    def _came(self, http_response: Any, **_more: Any) -> None:
        self.bytes += int(http_response.headers.get("Content-Length", 0))


def _cpu(act: Callable[[], Any]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    act()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
