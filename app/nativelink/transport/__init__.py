"""Bytes to calls: HTTP/2, gRPC framing, HTTP/1.1 and TLS, and the asyncio driver.

The protocol modules do no I/O and read no clock: bytes and times go in, streams with news and
bytes come out. `server` and `connection` are the only modules that know sockets.
"""
