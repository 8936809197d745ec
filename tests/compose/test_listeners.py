"""What the specs of a listener mean to the transport."""

from pathlib import Path

import json5
import pytest

from nativelink.compose.listeners import server_settings, tls_settings
from nativelink.config.specs_servers import HttpListenerSpec
from nativelink.transport.settings import ServerSettings


def settings(text: str) -> ServerSettings:
    return server_settings(HttpListenerSpec.model_validate(json5.loads(text)))


def test_what_is_unset_keeps_the_transports_defaults():
    assert settings("{ socket_address: '127.0.0.1:50051' }") == ServerSettings(
        address="127.0.0.1:50051", max_decoding_message_size=4 * 1024**2
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [(":50051", "0.0.0.0:50051"), ("[::1]:0", "[::1]:0"), ("10.0.0.1:1", "10.0.0.1:1")],
)
def test_addresses_are_as_the_transport_takes_them(address: str, expected: str):
    assert settings(f"{{ socket_address: '{address}' }}").address == expected


def test_every_key_of_advanced_http_arrives():
    got = settings("""{
      socket_address: "127.0.0.1:0",
      freebind: true,
      max_decoding_message_size: "8mib",
      advanced_http: {
        http2_keep_alive_interval: 11,
        experimental_http2_keep_alive_timeout_s: 12,
        experimental_http2_max_pending_accept_reset_streams: 13,
        experimental_http2_initial_stream_window_size: 100000,
        experimental_http2_initial_connection_window_size: 200000,
        experimental_http2_adaptive_window: true,
        experimental_http2_max_frame_size: 20000,
        experimental_http2_max_concurrent_streams: 14,
        experimental_http2_max_send_buf_size: 15,
        experimental_http2_enable_connect_protocol: true,
        experimental_http2_max_header_list_size: 16,
        max_connections: 17,
        idle_timeout_s: 18,
        max_connection_age_s: 19,
        max_connection_age_grace_s: 20,
      },
    }""")
    assert got == ServerSettings(
        address="127.0.0.1:0",
        freebind=True,
        max_decoding_message_size=8 * 1024**2,
        http2_keep_alive_interval_s=11,
        http2_keep_alive_timeout_s=12,
        http2_max_pending_accept_reset_streams=13,
        http2_initial_stream_window_size=100000,
        http2_initial_connection_window_size=200000,
        http2_adaptive_window=True,
        http2_max_frame_size=20000,
        http2_max_concurrent_streams=14,
        http2_max_send_buf_size=15,
        http2_enable_connect_protocol=True,
        http2_max_header_list_size=16,
        max_connections=17,
        idle_timeout_s=18,
        max_connection_age_s=19,
        max_connection_age_grace_s=20,
    )


@pytest.mark.parametrize(
    ("compression", "send", "accept"),
    [
        ("{ accepted_compression_algorithms: [] }", False, False),
        ("{ accepted_compression_algorithms: ['gzip'] }", False, True),
        (
            "{ send_compression_algorithm: 'gzip', accepted_compression_algorithms: ['none'] }",
            True,
            False,
        ),
    ],
)
def test_compression_is_what_the_listener_allows(compression: str, send: bool, accept: bool):
    got = settings(f"{{ socket_address: ':1', compression: {compression} }}")
    assert (got.send_gzip, got.accept_gzip) == (send, accept)


def test_tls_files_are_paths():
    spec = HttpListenerSpec.model_validate(
        json5.loads("""{ socket_address: ":1", tls: {
          cert_file: "/c", key_file: "/k", client_ca_file: "/ca", client_crl_file: "/crl" } }""")
    )
    assert spec.tls is not None
    tls = tls_settings(spec.tls)
    assert (tls.cert_file, tls.key_file) == (Path("/c"), Path("/k"))
    assert (tls.client_ca_file, tls.client_crl_file) == (Path("/ca"), Path("/crl"))
