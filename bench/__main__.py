"""`python -m bench`: run every case against every server in turns and write what came out."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console

from bench import h2load, loader, report
from bench.answers import WrongAnswerError
from bench.cases import CASES, Case
from bench.data import MIB, populate
from bench.measurements import CaseResult, LatencyResult, Results, ServerResult
from bench.null_load import ceiling
from bench.servers import (
    CONFIGURATIONS,
    LOAD_CORE,
    SERVER_CORE,
    Server,
    external,
    start_casd,
    start_ours,
)

console = Console(stderr=True)


class Bench:
    """One run: servers that stay up, rounds of every case over all of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rounds: int = options.rounds
        self.seconds = 1.0 if options.quick else 2.0
        self.warm_up_s = 0.3 if options.quick else 0.7
        self.share = 4 if options.quick else 1
        self.seed = int(time.monotonic_ns() % 1_000_000)

    def rate(self, server: Server, case: Case) -> tuple[float, float]:
        """Calls per second of one run, and the server's processor microseconds per call."""
        before = server.cpu_s()
        if case.unique is not None:
            self.seed += 1
            requests = case.unique(self.seed, case.unique_count // self.share)
            # What the one before left unsynced must not be written in this one's time.
            os.sync()
            before = server.cpu_s()
            outcome = loader.run(
                (server.host, server.port),
                requests,
                connections=case.connections,
                concurrency=case.streams,
            )
            return outcome.rate, (server.cpu_s() - before) / outcome.calls * 1e6
        rate = self.repeat(server, case).rate
        # The warm-up's calls cost time too; they come at the same rate.
        calls = rate * (self.duration_s(case) + self.warm_up_s)
        return rate, (server.cpu_s() - before) / calls * 1e6

    def duration_s(self, case: Case) -> float:
        """How long h2load repeats a case: longer where a second sees few calls."""
        return self.seconds * (3 if case.answer_bytes > 32 * MIB else 1)

    def repeat(
        self, server: Server, case: Case, *, rate: float | None = None, tls: bool = False
    ) -> h2load.Load:
        """One run of h2load; its answers must be as long as the right ones are."""
        assert case.message is not None
        origin = f"http://{server.host}:{server.port}"
        if tls:
            origin = f"https://{server.host}:{server.tls_port}"
        load = h2load.repeat(
            origin + case.path,
            case.message(),
            connections=case.connections,
            streams=case.streams,
            seconds=self.duration_s(case),
            warm_up_s=self.warm_up_s,
            rate=rate,
        )
        if load.data_per_call < case.answer_bytes * 0.9:
            raise WrongAnswerError(
                f"{case.name} of {server.name}: answers of {load.data_per_call:.0f} bytes, "
                f"right ones have {case.answer_bytes}"
            )
        return load

    def case(self, case: Case, servers: Sequence[Server]) -> CaseResult:
        """Rates of all servers, one after the other in every round."""
        for server in servers:
            with server.client() as client:
                try:
                    case.check(client)
                except WrongAnswerError as error:
                    raise WrongAnswerError(f"{case.name} of {server.name}: {error}") from error
        result = CaseResult(case.name)
        for server in servers:
            result.rates[server.name] = []
            result.cpu_us[server.name] = []
            if case.unique is not None:
                # The first new files of a fresh server make its folders; nobody's score.
                self.rate(server, dataclasses.replace(case, unique_count=case.unique_count // 8))
        for turn in range(self.rounds):
            # Back and forth, so that what one leaves to the next (a warm disk) is shared out.
            for server in servers if turn % 2 == 0 else reversed(servers):
                rate, cpu_us = self.rate(server, case)
                result.rates[server.name].append(rate)
                result.cpu_us[server.name].append(cpu_us)
        if case.latency:
            for server in servers:
                peak = statistics.median(result.rates[server.name])
                took = self.repeat(server, case, rate=0.7 * peak).latencies_us
                result.latencies[server.name] = LatencyResult.of(took)
        shown = ", ".join(
            f"{name} {statistics.median(rates):,.0f}/s" for name, rates in result.rates.items()
        )
        console.print(f"[bold]{case.name}[/]: {shown}")
        return result

    def tls(self, server: Server, cases: Sequence[Case]) -> dict[str, list[float]]:
        """What TLS leaves of the plain rate, per case, one ratio per round."""
        ratios: dict[str, list[float]] = {}
        for case in cases:
            for _ in range(self.rounds):
                plain = self.repeat(server, case).rate
                ratios.setdefault(case.name, []).append(
                    self.repeat(server, case, tls=True).rate / plain
                )
        return ratios

    def first_bytes(self, server: Server) -> dict[str, float]:
        """Median microseconds from a Read's headers to its first data, one call at a time."""
        took: dict[str, float] = {}
        for case, count in ((_by_name("Read 1 MiB"), 50), (_by_name("Read 64 MiB"), 5)):
            assert case.message is not None
            message = case.message()[5:]
            requests = [loader.Request.of(case.path, (message,))] * count
            outcome = loader.run(
                (server.host, server.port),
                requests,
                connections=1,
                concurrency=1,
                first_bytes=True,
            )
            took[case.name] = statistics.median(outcome.first_byte_us)
        return took


def _by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


TLS_CASES = ("GetCapabilities", "FindMissingBlobs 100 present", "Read 16 KiB", "Read 1 MiB")


@contextlib.contextmanager
def _servers(options: argparse.Namespace) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        servers = []
        if not options.no_casd:
            servers.append(stack.enter_context(start_casd()))
        for kind in options.ours:
            ours = stack.enter_context(start_ours(kind, tls=kind == "memory"))
            servers.append(ours)
        servers += [external(peer) for peer in shlex.split(os.environ.get("PEERS", ""))]
        yield servers


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, help="turns of every case (default 5, quick 1)")
    parser.add_argument("--quick", action="store_true", help="short runs; writes no files")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="cases by part of the name or path; or: unary, streaming",
    )
    parser.add_argument("--ours", action="append", choices=list(CONFIGURATIONS), default=[])
    parser.add_argument("--no-casd", action="store_true", help="leave the peer out")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.ours = options.ours or list(CONFIGURATIONS)
    return options


def main() -> int:
    """Run, print, write."""
    options = _options()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    os.sched_setaffinity(0, {LOAD_CORE})
    bench = Bench(options)
    cases = [
        case
        for case in CASES
        if not options.only or any(text.lower() in case.words for text in options.only)
    ]
    results = Results(rounds=bench.rounds, seconds=bench.seconds)
    with _servers(options) as servers:
        for server in servers:
            with server.client() as client:
                populate(client)
            results.servers[server.name] = ServerResult(
                start_s=server.start_s, rss_before_bytes=server.memory_bytes().get("VmRSS", 0)
            )
        for case in cases:
            results.cases.append(bench.case(case, servers))
        if not options.only:
            for server in servers:
                measured = results.servers[server.name]
                measured.first_byte_us = bench.first_bytes(server)
                if server.tls_port is not None:
                    measured.tls_ratios = bench.tls(server, [_by_name(name) for name in TLS_CASES])
        for server in servers:
            memory = server.memory_bytes()
            results.servers[server.name].rss_after_bytes = memory.get("VmRSS", 0)
            results.servers[server.name].rss_peak_bytes = memory.get("VmHWM", 0)
    if not options.only:
        results.loader_ceiling = ceiling(SERVER_CORE)
    report.show(results)
    if not options.quick and not options.only:
        report.write(results)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (WrongAnswerError, loader.LoadError, h2load.H2loadError) as error:
        sys.exit(f"bench: {error}")
