"""Benchmarks: our server and its peers answer the same requests in turns, on the same machine.

`python -m bench` (or `make bench`) writes `docs/benchmarks.md` and `docs/benchmarks.json`.
"""
