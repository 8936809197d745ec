"""The commands of docs/tls.md make what its text says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nativelink.transport.server import TlsSettings
from tests.transport.live import live
from tests.transport.test_tls import client_context, is_served

PAGE = Path(__file__).parents[2] / "docs/tls.md"


class Made:
    """What stands in for an authority: the folder that the page's commands filled."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "ca.crt"

    def pair(self, name):
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"


def shell_of(heading):
    """The first shell block below a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    found = re.search(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def run(script, folder):
    subprocess.run(["bash", "-euc", script], cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
async def test_the_certificates_of_the_page_serve_refuse_and_are_revoked(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: run scripts/tools.py openssl")
    run(shell_of("Certificates"), tmp_path)
    made = Made(tmp_path / "nativelink-tls")
    client = client_context(made, pair=made.pair("client"))

    async with live(tls=TlsSettings(*made.pair("server"), client_ca_file=made.file)) as running:
        assert await is_served(running, client)
        assert not await is_served(running, client_context(made))

    run(shell_of("Revoking"), made.folder)
    revoking = TlsSettings(
        *made.pair("server"),
        client_ca_file=made.file,
        client_crl_file=made.folder / "revoked.crl",
    )
    async with live(tls=revoking) as running:
        assert not await is_served(running, client)
