"""The store contract as a suite: what `stores.store.Store` promises, clause by clause.

A kind of store is tested by a subclass that says how to make one. Test names and docstrings carry
the numbers of the clauses.

- `StoreBasics` holds for every store, also for one that keeps nothing (noop).
- `StoreContract` is the whole contract, for stores that keep what is put.
- `StringKeys`, `OneKeyspace` or `DigestKeysOnly` is mixed in, by which keys the kind takes.
- `RawAccess` is mixed in where stored bytes can be reached without the store, so that reads and
  writes are tested apart from each other.
- `StreamsBlobs` is mixed in unless the kind holds blobs in memory by purpose (clause 7).

No test uses the production helpers (`read_bytes`, `write_bytes`, `has_one`).
"""

from nativelink.testing.store_contract.basics import StoreBasics
from nativelink.testing.store_contract.contract import StoreContract
from nativelink.testing.store_contract.keys import DigestKeysOnly, OneKeyspace, StringKeys
from nativelink.testing.store_contract.media import RawAccess, StreamsBlobs
from nativelink.testing.store_contract.probes import RecordingSink

__all__ = [
    "DigestKeysOnly",
    "OneKeyspace",
    "RawAccess",
    "RecordingSink",
    "StoreBasics",
    "StoreContract",
    "StreamsBlobs",
    "StringKeys",
]
