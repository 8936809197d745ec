"""What a person sees when the server is up.

Where it listens, what it keeps where, and what to paste into `.bazelrc`.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from nativelink import __version__
from nativelink.cli.output import size
from nativelink.compose.nodes import Leaf
from nativelink.compose.servers import Listener
from nativelink.compose.system import System
from nativelink.telemetry.logs import LogFormat

__all__ = ["bazelrc", "show_banner"]

_log: Final = logging.getLogger(__name__)
_EXECUTION: Final = "execution"
_BUILD_EVENTS: Final = "experimental_bep"
#: What `http_cache` has below the path of an instance: blobs and results by hash, entries by path
#: (ccache, sccache, Gradle), Turborepo's API.
_HTTP_CACHE: Final = ("/cas", "/ac", "/cache", "/v8/artifacts")
_LEAVE: Final = "Ctrl-C finishes what is under way and stops."


def show_banner(system: System, environ: Mapping[str, str]) -> None:
    """Tell a person that the server is up; with `NL_LOG=json`, one log line per listener."""
    if environ.get("NL_LOG") == LogFormat.JSON:
        for listener in system.listeners:
            _log.info("listening on %s", listener.url)
        return
    if sys.stdout.isatty():
        _show_rich(system)
    else:
        _show_plain(system)


def bazelrc(system: System) -> list[str]:
    """Lines for `.bazelrc` that make Bazel use the first listener with a cache; empty if none.

    Where the listener executes, they ask for that: an executor is also the cache.
    """
    for listener in system.listeners:
        if listener.instances:
            return [*_lines(listener), *_events(listener, system)]
    return []


def _events(cache: Listener, system: System) -> Iterator[str]:
    """A line that lets builds be told, to the listener of the cache if it takes that."""
    takers = [each for each in system.listeners if _BUILD_EVENTS in each.services]
    if takers:
        taker = cache if cache in takers else takers[0]
        yield f"build --bes_backend={_url(taker)}  # optional, for: nativelink builds show"


def _lines(listener: Listener) -> Iterator[str]:
    use = "remote_executor" if _EXECUTION in listener.services else "remote_cache"
    yield f"build --{use}={_url(listener)}"
    # A name says later what a cache was for; Bazel asks for the empty one by itself.
    named = [name for name in listener.instances if name]
    if "" not in listener.instances or named:
        yield f"build --remote_instance_name={named[0] if named else ''}"
    yield "build --remote_upload_local_results=true"
    # Bazel's minute is short for large blobs on slow links.
    yield "build --remote_timeout=600"
    # Pauses double from 0.1 s up to 5 s: Bazel's own five tries are over after three seconds, in
    # which no server is restarted. With ten, builds survived 8 seconds, and not 15.
    yield "build --remote_retries=10"
    yield "build --experimental_guard_against_concurrent_changes=true"
    if listener.tls is not None:
        # The authority is known to who made the certificate, and the server has no need of it.
        yield "build --tls_certificate=/path/to/ca.crt"
        if listener.tls.client_ca_file is not None:
            yield "build --tls_client_certificate=/path/to/client.crt"
            yield "build --tls_client_key=/path/to/client.key"


def _url(listener: Listener) -> str:
    scheme = "grpcs" if listener.tls is not None else "grpc"
    return f"{scheme}://{_reachable(listener)}"


def _reachable(listener: Listener) -> str:
    """The address under which clients find the listener."""
    host, _, port = listener.address.rpartition(":")
    if host in ("0.0.0.0", "[::]"):  # noqa: S104 - compared with, not bound to
        host = socket.gethostname()
    return f"{host}:{port}"


def _limits(leaf: Leaf) -> str:
    """A store's limits in words."""
    policy = leaf.policy
    words = [
        f"at most {size(policy.max_bytes)}" if policy.max_bytes else "",
        f"at most {policy.max_count:,} entries" if policy.max_count else "",
        f"unused for {policy.max_seconds:,.0f} s" if policy.max_seconds else "",
    ]
    return ", ".join(word for word in words if word) or "without a limit"


def _sections(system: System) -> Iterator[tuple[str, list[str]]]:
    """What is said, under headings."""
    yield (
        "listens on",
        [
            f"{url}  {', '.join(names)}"
            for listener in system.listeners
            for url, names in _offers(listener)
        ],
    )
    width = max((len(leaf.path) for leaf in system.leaves), default=0)
    yield (
        "keeps",
        [f"{leaf.path:{width}}  {_limits(leaf)}  in {leaf.place}" for leaf in system.leaves],
    )
    yield (
        "runs actions",
        [
            f"{worker.name}  {_slots(worker.max_inflight_tasks)}  in {worker.work_directory}"
            for worker in system.workers
        ],
    )
    lines = bazelrc(system)
    executes = any("remote_executor" in line for line in lines)
    hint = " (--remote_cache instead of --remote_executor: the cache alone)" if executes else ""
    yield f"for your .bazelrc{hint}", lines


def _slots(count: int) -> str:
    return f"{count} at a time" if count else "as many as are sent"


def _offers(listener: Listener) -> Iterator[tuple[str, Sequence[str]]]:
    """Addresses, each with what is found there, in the words that its clients use."""
    plain = f"{'http' if listener.tls is None else 'https'}://{listener.address}"
    if listener.services or not (listener.pages or listener.caches):
        yield listener.url, listener.services
    if listener.pages:
        yield plain, listener.pages
    for prefix in listener.caches:
        yield f"{plain}{prefix}", _HTTP_CACHE


def _show_plain(system: System) -> None:
    print(f"nativelink {__version__}")
    for title, lines in _sections(system):
        if lines:
            print(title)
            print("".join(f"  {line}\n" for line in lines), end="")
    print(_LEAVE, flush=True)


def _show_rich(system: System) -> None:
    from rich.console import Console
    from rich.text import Text

    # Nothing wraps or is cut: the lines are to be copied.
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"nativelink {__version__}", style="bold"))
    for title, lines in _sections(system):
        if lines:
            console.print(Text(title, style="bold cyan"))
            for line in lines:
                console.print(Text(f"  {line}"))
    console.print(Text(_LEAVE, style="dim"))
    sys.stdout.flush()
