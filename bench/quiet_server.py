"""Our server without what watches it: `python -m bench.quiet_server CONFIG`.

No call is counted or timed. It exists to show what that costs, see `bench.overhead`.
"""

from __future__ import annotations

from typing import Any

from nativelink.cli.main import main
from nativelink.compose import servers
from nativelink.transport.server import Server


class _Unwatched(Server):
    def __init__(self, *arguments: Any, observer: object = None, **settings: Any) -> None:
        del observer
        super().__init__(*arguments, **settings)


if __name__ == "__main__":
    vars(servers)["Server"] = _Unwatched
    main()
