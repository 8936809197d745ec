"""Our vocabulary: digests, errors, clocks, byte streams, calls. Imports nothing of ours."""
