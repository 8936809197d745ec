"""Write docs/configuration.md from the configuration models; `--check` only compares."""

from __future__ import annotations

import sys

from generated_page import write_or_check

from nativelink.config.manual import manual

if __name__ == "__main__":
    sys.exit(write_or_check("configuration.md", manual, __doc__))
