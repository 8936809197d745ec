"""Our server, which watches one listener less: `python -m bench.quiet_server CONFIG`.

No call to the port that the environment names in `UNWATCHED_PORT` is counted or timed. It exists to
show what that costs, see `bench.overhead`.
"""

from __future__ import annotations

import os
from typing import Any

from nativelink.cli.main import main
from nativelink.compose import servers
from nativelink.transport.server import Server
from nativelink.transport.settings import ServerSettings


class _Unwatched(Server):
    def __init__(
        self, *arguments: Any, settings: ServerSettings, observer: Any = None, **others: Any
    ) -> None:
        if settings.address.endswith(f":{os.environ['UNWATCHED_PORT']}"):
            observer = None
        super().__init__(*arguments, settings=settings, observer=observer, **others)


if __name__ == "__main__":
    vars(servers)["Server"] = _Unwatched
    main()
