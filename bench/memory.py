"""`python -m bench.memory`: does memory stay bounded while huge blobs pass?

Eight blobs of 2 GiB are uploaded at once and then downloaded at once, on the filesystem store;
the server's resident memory is sampled all the while. Blobs are made on the fly and differ in
their first bytes, so neither the server nor this client ever holds one. Needs 16 GiB of disk.
Uploads come in messages of 64 KiB; `--message-kib 1024` sends what some clients send.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator

from bench.servers import ROOT, Server, start_ours
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re

LIMIT_BYTES = 64 * 2**20
_MIB = 2**20


def chunks(size: int, number: int, message: int = _MIB) -> Iterator[bytes]:
    """A blob's bytes, `message` at a time."""
    chunk = bytes(range(256)) * (message // 256)
    yield b"%064d" % number + chunk[64:]
    for _ in range(size // message - 1):
        yield chunk


def digest(size: int, number: int, message: int) -> re.Digest:
    """Its digest, without holding it."""
    hasher = hashlib.sha256()
    for chunk in chunks(size, number, message):
        hasher.update(chunk)
    return re.Digest(hash=hasher.hexdigest(), size_bytes=size)


class _Sampler:
    """Watches a server's resident memory from a thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.peak_bytes = 0

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.05):
            self.peak_bytes = max(self.peak_bytes, self._server.memory_bytes()["VmRSS"])


def upload(server: Server, wanted: re.Digest, number: int, message: int) -> None:
    """One upload on a connection of its own."""
    with server.client() as client:
        committed = client.write_chunks(wanted, chunks(wanted.size_bytes, number, message))
    if committed != wanted.size_bytes:
        raise SystemExit(f"committed {committed} of {wanted.size_bytes} bytes")


def download(server: Server, wanted: re.Digest, _number: int, _message: int) -> None:
    """One download on a connection of its own, hashed as it comes."""
    hasher = hashlib.sha256()
    with server.client() as client:
        for chunk in client.read_chunks(wanted):
            hasher.update(chunk)
    if hasher.hexdigest() != wanted.hash:
        raise SystemExit("the data that came back is not what was sent")


def main() -> int:
    """Run, print, and fail if memory grew beyond the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--mib", type=int, default=2048, help="size of a blob")
    parser.add_argument("--count", type=int, default=8, help="how many at once")
    parser.add_argument("--message-kib", type=int, default=64, help="size of an upload's messages")
    options = parser.parse_args()
    size, message = options.mib * _MIB, options.message_kib * 1024
    outcome: dict[str, float] = dict(vars(options))
    with start_ours("filesystem", pinned=False) as server:
        with server.client() as client:
            client.write(b"warm" * 1_000_000)
        digests = [digest(size, number, message) for number in range(options.count)]
        before = server.memory_bytes()["VmRSS"]
        with concurrent.futures.ThreadPoolExecutor(options.count) as pool:
            for name, transfer in (("upload", upload), ("download", download)):
                started = time.perf_counter()
                with _Sampler(server) as sampler:
                    futures = [
                        pool.submit(transfer, server, wanted, number, message)
                        for number, wanted in enumerate(digests)
                    ]
                    for future in futures:
                        future.result()
                took = time.perf_counter() - started
                outcome[f"{name}_mb_per_s"] = round(size * options.count / took / 1e6)
                outcome[f"{name}_rss_growth_mib"] = round((sampler.peak_bytes - before) / 2**20, 1)
        outcome["rss_before_mib"] = round(before / 2**20, 1)
    text = json.dumps(outcome, indent=1)
    (ROOT / "docs/benchmarks-memory.json").write_text(text + "\n")
    print(text)
    grown = max(outcome["upload_rss_growth_mib"], outcome["download_rss_growth_mib"])
    return 0 if grown * 2**20 < LIMIT_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
