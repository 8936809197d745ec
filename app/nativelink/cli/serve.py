"""`nativelink CONFIG.json5`: run what the file describes until a signal comes."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from opentelemetry.metrics import set_meter_provider

from nativelink import __version__
from nativelink.cli.banner import show_banner
from nativelink.cli.garbage import freeze_what_stays
from nativelink.cli.heap import share_one_heap
from nativelink.cli.service_manager import ServiceManager
from nativelink.compose.system import System, open_system
from nativelink.config import Config
from nativelink.config.load import load_file
from nativelink.core.clock import SystemClock
from nativelink.core.errors import NativeLinkError
from nativelink.telemetry.api import ApiMeterProvider
from nativelink.telemetry.logs import configure

__all__ = ["serve"]

_log: Final = logging.getLogger(__name__)

#: What calls under way get to finish after the first signal: less than the 30 s after which
#: Kubernetes, and the 90 s after which systemd, kill.
_GRACE_S: Final = 20.0
#: How long a store may take to show that it works, as at `/status`.
_LOOK_S: Final = 5.0


def serve(path: Path) -> int:
    """Run until SIGINT or SIGTERM.

    Returns:
        The exit code: 0 after a clean drain, 1 if the system could not be started, 128 + signal if
        calls had to be cut off.
    """
    configure(os.environ)
    try:
        config = load_file(path)
    except NativeLinkError as error:
        # Every problem with its place in the file, in the form that editors jump to.
        print(error.message, file=sys.stderr)
        return 1
    share_one_heap()
    wanted = config.global_.max_open_files
    got = raise_open_files(wanted)
    if got < wanted and "max_open_files" in config.global_.model_fields_set:
        _log.warning("max_open_files is %d, but the system allows %d (ulimit -Hn)", wanted, got)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_run(config, os.environ))
        except NativeLinkError as error:
            for line in error.message.splitlines():
                print(f"nativelink: {line}", file=sys.stderr)
            return 1


async def _run(config: Config, environ: Mapping[str, str]) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    received: list[int] = []

    def stop(number: int) -> None:
        if received:
            # Whoever asks twice does not want to wait for anything.
            os._exit(128 + number)
        received.append(number)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    manager = ServiceManager(environ)
    async with (
        open_system(config, version=__version__, environ=environ, clock=SystemClock()) as system,
        asyncio.TaskGroup() as group,
    ):
        # Libraries that are instrumented with OpenTelemetry report beside us.
        set_meter_provider(ApiMeterProvider(system.registry))
        freeze_what_stays()
        show_banner(system, environ)
        alive = group.create_task(manager.stay_alive())
        looking = group.create_task(_tell_what_ails(system))
        manager.tell("READY=1")
        await stopping.wait()
        looking.cancel()
        manager.tell("STOPPING=1")
        _log.info("%s: draining", signal.Signals(received[0]).name)
        clean = await system.drain(_GRACE_S)
        alive.cancel()
    _log.info("stopped" if clean else "stopped, calls under way were cut off")
    return 0 if clean else 128 + received[0]


async def _tell_what_ails(system: System) -> None:
    """Log it once. No reason not to start: a Redis may start later, credentials may be mended."""
    for line in await system.ailing(_LOOK_S):
        _log.warning("%s; calls that need it fail until it does (/status)", line)


def raise_open_files(wanted: int) -> int:
    """Raise the soft limit of open files to `wanted`, as far as the hard limit allows.

    Returns:
        What may be open now; it is never lowered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    target = wanted if hard == unlimited else min(wanted, hard)
    if soft == unlimited or target <= soft:
        return wanted if soft == unlimited else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return target
