"""What is checked of the Remote Asset services, and what is explained of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativelink.config import load_file
from nativelink.config.explain import Node, explain
from nativelink.config.load import examine


def report(fetch: str, push: str = "", cas: str = "{ cas_store: 'CAS' }") -> str:
    text = f"""{{
      stores: [{{ name: 'CAS', memory: {{}} }}, {{ name: 'ASSETS', memory: {{}} }},
               {{ name: 'OTHER', memory: {{}} }}],
      servers: [{{
        listener: {{ http: {{ socket_address: '127.0.0.1:0' }} }},
        services: {{
          cas: [{cas}], bytestream: [{{ cas_store: 'CAS' }}], capabilities: [{{}}],
          fetch: [{fetch}], push: [{push or "{ push_store: 'OTHER', instance_name: 'o' }"}],
        }},
      }}],
    }}"""
    findings = map(str, examine(text, "f.json5", {}).findings)
    return "\n".join(each for each in findings if ".fetch[" in each or ".push[" in each)


def test_a_whole_one_is_fine() -> None:
    whole = """{ fetch_store: 'ASSETS', downloads: {
      allowed_hosts: ['github.com', '*.githubusercontent.com:*', '[::1]:80'],
      allowed_networks: ['10.0.0.0/8', 'fd00:1::/32', '192.0.2.1'],
      max_size_bytes: '1gb', timeout_s: '5m', retry: { max_retries: 1 },
    } }"""
    assert report(whole) == ""


@pytest.mark.parametrize(
    ("downloads", "said"),
    [
        ("allowed_hosts: ['https://a.org']", "allowed_hosts[0]: no name of hosts"),
        ("allowed_hosts: ['a.org', 'b.org:70000']", "allowed_hosts[1]: the port is not a number"),
        ("allowed_hosts: ['*'], allowed_networks: ['10.0.0.1/8']", "host bits"),
        ("allowed_hosts: ['*'], allowed_networks: ['intern']", "allowed_networks[0]"),
        ("allowed_hosts: ['*'], allowed_networks: ['0.0.0.0/0']", "cloud credentials"),
        ("allowed_hosts: ['*'], allowed_networks: ['fd00::/8']", "cloud credentials"),
        ("allowed_hosts: ['*'], ca_file: '/absent.pem'", "there is no file /absent.pem"),
        ("", "nothing is downloaded"),
    ],
)
def test_downloads_that_cannot_work_are_named(downloads: str, said: str) -> None:
    assert said in report(f"{{ fetch_store: 'ASSETS', downloads: {{ {downloads} }} }}")


def test_downloads_need_somewhere_to_go() -> None:
    fetch = "{ fetch_store: 'ASSETS', downloads: { allowed_hosts: ['*'] } %s }"

    assert "could go to" in report(fetch % "", cas="{ cas_store: 'CAS', instance_name: 'x' }")
    assert report(fetch % ", cas_store: 'CAS'", cas="") == ""


@pytest.mark.parametrize(
    ("fetch", "push"),
    [
        ("{ fetch_store: 'CAS' }", ""),
        ("{ fetch_store: 'ASSETS' }", "{ push_store: 'CAS', instance_name: 'other' }"),
    ],
)
def test_assets_among_blobs_are_warned_of(fetch: str, push: str) -> None:
    assert "can replace what is known of assets" in report(fetch, push)


def test_what_is_pushed_elsewhere_is_warned_of() -> None:
    assert "goes to another store" in report("{ fetch_store: 'ASSETS' }", "{ push_store: 'OTHER' }")
    assert report("{ fetch_store: 'ASSETS' }", "{ push_store: 'ASSETS' }") == ""


def test_names_of_stores_are_looked_up() -> None:
    assert 'no store is called "NONE"' in report("{ fetch_store: 'NONE' }")
    assert 'no store is called "NONE"' in report("{ fetch_store: 'ASSETS', cas_store: 'NONE' }")


def test_it_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "c.json5"
    file.write_text(
        """{ stores: [{ name: 'CAS', noop: {} }, { name: 'ASSETS', noop: {} }], servers: [{
          listener: { http: { socket_address: '127.0.0.1:0' } },
          services: {
            fetch: [{ fetch_store: 'ASSETS', cas_store: 'CAS',
                      downloads: { allowed_hosts: ['a.org', '*.b.org'], max_size_bytes: '2gib' } }],
            push: [{ push_store: 'ASSETS', read_only: true }],
          },
        }] }"""
    )

    def labels(node: Node) -> list[str]:
        own = " ".join([node.label, *node.details])
        return [own, *(line for child in node.children for line in labels(child))]

    lines = [line for root in explain(load_file(file)) for line in labels(root)]

    assert "push -> ASSETS read_only yes" in lines
    (fetch,) = (line for line in lines if line.startswith("fetch "))
    assert "downloads.allowed_hosts a.org, *.b.org" in fetch
    assert "downloads.max_size_bytes 2 GiB" in fetch
