"""`python -m scripts.region_local`: a region on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from infra.settings_load import find_region
from nativelink.core.errors import NativeLinkError
from scripts.region_local import view
from scripts.region_local.agent import Happening
from scripts.region_local.region import FRONT_FILE, Region, open_region
from scripts.region_local.services import ServiceError
from scripts.region_local.settings import Settings
from scripts.terraform import ROOT, TerraformError

FOLDER: Final = ROOT / ".tools/region-local"
EXAMPLE: Final = ROOT / "infra/examples/minimal.yaml"
#: Between lines about everything, where there is no terminal.
_SUMMARY_S: Final = 10.0
_REFRESH_S: Final = 0.5
#: A machine with other things to do answers late.
_ANSWER_S: Final = 120.0


def main(arguments: Sequence[str]) -> int:
    """Run a region, or have a worker of the one that runs taken back."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="region-local", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["run", "interrupt"], default="run")
    parser.add_argument(
        "--region", default=str(EXAMPLE), help="infra/regions/NAME.yaml, or the path of such a file"
    )
    for name, default, text in (
        ("--boot", defaults.boot_s, "from launch to user data"),
        ("--notice", defaults.notice_s, "that a spot notice gives; EC2's: 120"),
        ("--idle", defaults.idle_s, "without work until a worker leaves; 0: as deployed"),
    ):
        text += " (%(default)g)"
        parser.add_argument(name, type=float, default=default, metavar="SECONDS", help=text)
    parser.add_argument("--keep", action="store_true", help="keep logs when it ends")
    parser.add_argument("--picture", type=Path, help="write the view as SVG every few seconds")
    parser.add_argument("--folder", type=Path, default=FOLDER / "run", help="disks and logs")
    parser.add_argument("--instance", default="", help="whom to interrupt; else any worker")
    asked = parser.parse_args(arguments)
    if asked.command == "interrupt":
        return _interrupt(asked.folder, asked.instance)
    settings = Settings(boot_s=asked.boot, notice_s=asked.notice, idle_s=asked.idle or None)
    folder: Path = asked.folder.resolve()
    try:
        if _runs(folder):
            raise ServiceError(f"a region runs already in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return asyncio.run(
            _run(
                find_region(asked.region).resolve(),
                folder,
                settings,
                asked.picture,
                keep=asked.keep,
            )
        )
    except NativeLinkError as failure:
        print(failure.message, file=sys.stderr)
        return 1
    except (ServiceError, TerraformError) as failure:
        print(failure, file=sys.stderr)
        return 1


def _interrupt(folder: Path, instance: str) -> int:
    try:
        url = (folder / FRONT_FILE).read_text(encoding="utf-8")
        request = urllib.request.Request(f"{url}/interrupt", instance.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            print(f"{answer.read().decode()} has a spot notice")
    except urllib.error.HTTPError as refusal:
        print(refusal.read().decode(), file=sys.stderr)
        return 1
    except OSError:
        print("no region runs here: make region-local", file=sys.stderr)
        return 1
    return 0


async def _run(
    file: Path, folder: Path, settings: Settings, picture: Path | None, *, keep: bool
) -> int:
    playing = asyncio.current_task()
    assert playing is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Once: what a second one would interrupt is the cleaning up.
        loop.add_signal_handler(number, _once(playing))
    try:
        await _play(file, folder, settings, picture)
    except asyncio.CancelledError:
        print("everything is stopped")
    finally:
        if keep:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _once(task: asyncio.Task[object]) -> Callable[[], None]:
    def end() -> None:
        if not task.cancelling():
            task.cancel()

    return end


def _runs(folder: Path) -> bool:
    try:
        url = (folder / FRONT_FILE).read_text(encoding="utf-8")
        host, _, port = url.removeprefix("http://").partition(":")
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


async def _play(file: Path, folder: Path, settings: Settings, picture: Path | None) -> None:
    console = Console()

    def say(happening: Happening) -> None:
        # The picture has its own place for them.
        if not live.is_started:
            console.print(view.line(happening), highlight=False, soft_wrap=True)

    live = Live(console=console, auto_refresh=False)
    async with open_region(file, folder, FOLDER / "stack", settings, say) as region:
        console.print(_welcome(region), highlight=False)
        if console.is_terminal:
            live.start()
        shown_at = 0.0
        try:
            while True:
                now = time.monotonic()
                if console.is_terminal:
                    height = console.height
                    shown = view.picture(region.agent, _title(region), now, height)
                    live.update(shown, refresh=True)
                if now - shown_at >= _SUMMARY_S:
                    shown_at = now
                    say(Happening(time.time(), view.summary(region.agent.status())))
                    if picture is not None:
                        view.draw(region.agent, _title(region), now, picture)
                await asyncio.sleep(_REFRESH_S)
        finally:
            live.stop()


def _title(region: Region) -> str:
    return view.header(region.outputs["endpoint"], time.monotonic() - region.started_at)


def _welcome(region: Region) -> str:
    took = time.monotonic() - region.started_at
    return (
        f"\nserving after {took:.0f} s: {region.outputs['endpoint']}, AWS at {region.endpoint}\n"
        f"\n# .bazelrc\n{region.outputs['bazelrc']}\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
