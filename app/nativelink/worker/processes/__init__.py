"""Processes of actions: started cheaply, killed completely.

The serving process never forks for an action: a fork costs what the memory of the forking process
costs to copy, and whoever forks must reap. It starts one small Python process and talks to it.

    server ── guard ── nursery ── slot ── the action's program ── whatever that starts
                              └── slot ── ...

- `launcher.py` and `supervisor.py` are the server's side: a request goes to an idle slot, or to a
  new one.
- `nursery.py`: the **guard** only waits, so that somebody is left when the **nursery** is killed;
  the nursery forks slots.
- `slot.py`: a **slot** runs one program after another. `program.py` finds and starts it, `tree.py`
  watches, measures and kills what came of it, `sandbox.py` puts it into namespaces, `cgroups.py`
  under limits.
- `frames.py` is what the processes say to each other, `system.py` what Python lacks of the kernel.

Nothing survives because guard, nursery and slots are child subreapers (prctl(2)): a process whose
parent ends becomes the child of the nearest of them, however it was started, whatever session or
group it is in. A slot that has no children left (ECHILD) therefore knows that all is gone, and
answers only then. If a slot is killed, what it ran falls to the nursery, which kills every child
that is no slot; if the nursery is killed, to the guard; if the server is killed, the ends of the
sockets say so to all.

Everything but `launcher.py` and `supervisor.py` runs in the small processes, and imports as little
as it can.
"""
