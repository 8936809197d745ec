"""Write docs/configuration.md from the configuration models; `--check` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from nativelink.config.manual import manual

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is stale."""
    text = manual()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"docs/{PAGE.name} is stale: run scripts/generate_config_docs.py", file=sys.stderr)
        return 1
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
