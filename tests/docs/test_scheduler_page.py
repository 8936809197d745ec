"""The page of stages is what the table says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_stages_is_fresh() -> None:
    script = ROOT / "scripts" / "generate_scheduler_docs.py"
    check = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
