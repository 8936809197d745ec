"""The page of metrics is what the catalogue says."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_metrics_is_fresh() -> None:
    script = ROOT / "scripts" / "generate_metrics_docs.py"
    check = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


def test_metrics_that_documents_name_are_on_the_page() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`((?:nativelink|process)_\w+)`", page))
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    documents += (ROOT / "docs" / "operate").glob("*.md")
    known |= {f"{name}_{part}" for name in known for part in ("sum", "count", "bucket")}
    named = {
        (name, path.name)
        for path in documents
        for name in re.findall(r"\bnativelink_[a-z_]+", path.read_text(encoding="utf-8"))
    }
    assert named
    assert {each for each in named if each[0] not in known} == set()


def test_labels_of_the_alert_rules_are_those_of_their_metrics() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    labels = {
        name: {each.replace(".", "_") for each in re.findall(r"`([a-z_.]+)`", attributes)}
        for name, attributes in re.findall(
            r"^\| `[^`]+` \| `(\w+)` \|[^|]*\|[^|]*\| ([^|]*) \|", page, re.MULTILINE
        )
    }
    rules = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    asked = re.findall(r"(nativelink_\w+)\{(\w+)(?:=~|!=|=)", rules)
    assert len(asked) == 2
    for name, label in asked:
        assert label in labels[re.sub(r"_(sum|count|bucket)$", "", name)], (name, label)
