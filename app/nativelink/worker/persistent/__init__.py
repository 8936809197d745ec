"""Processes that stay: Bazel's persistent workers, run remotely.

A compiler that takes a second to start and a tenth to compile may stay, and be asked for one
compilation after another (bazel.build/remote/persistent). An action says so by its platform
properties: `supports-workers` is `1`, and `requires-worker-protocol` is `proto` (the default) or
`json`.

For whoever runs actions there is one call, `PersistentWorkers.run`. It gives what a launcher would,
or None: then nothing was done, and the action is to be run in a process of its own.

- `plan.py` divides the command line into what starts the process and what it is asked to do, and
  says which actions may share a process: those with the same start, environment and tools.
- `messages.py` is what is said over its stdin and stdout.
- `process.py` is one such process. It runs in a directory of its own, which never changes: what
  Bazel calls a sandboxed singleplex worker. An action's inputs are moved there for as long as its
  request lasts, and back, with the outputs (`moving.py`), so relative names mean what they mean in
  a process of its own, and no action sees another's files.
- `pool.py` keeps idle processes, within bounds.

The processes are started by the worker's launcher, so that nothing of them is ever left, with the
environment of the action and nothing of the server's.
"""
