"""The protocols: `.proto` files written here, and what `scripts/generate_protos.py` makes of them.

The generated modules register their descriptors in a pool of their own (`nativelink.proto._pool`),
so other libraries in the process may bring the same files (OpenTelemetry's exporter brings
`google/rpc/status.proto`). The price: the well-known types exist twice, and ours are
`nativelink.proto.google.protobuf.*`, never `google.protobuf.*_pb2`.
"""
