"""What is measured of remote execution: NativeLink's instruments, and ours beside them.

Names, units, attributes and bucket bounds of the first part are those of NativeLink v1.6.6.
"""

from __future__ import annotations

from typing import Final

from nativelink.telemetry.meter import Definition, Kind

__all__ = [
    "EXECUTION_ACTIVE",
    "EXECUTION_CATALOGUE",
    "EXECUTION_COMPLETED",
    "EXECUTION_CPU_TIME",
    "EXECUTION_HANDED_BACK",
    "EXECUTION_OUTPUT_SIZE",
    "EXECUTION_PEAK_MEMORY",
    "EXECUTION_QUEUE_TIME",
    "EXECUTION_RETRIES",
    "EXECUTION_STAGE_DURATION",
    "EXECUTION_STAGE_TRANSITIONS",
    "EXECUTION_TOTAL_DURATION",
    "FARM_CATALOGUE",
    "LOCAL_WORKER_CONNECTED",
    "LOCAL_WORKER_CONNECTIONS",
    "LOCAL_WORKER_EXECUTED",
    "LOCAL_WORKER_RUNNING",
    "QUEUE_LENGTH",
    "QUEUE_OLDEST_AGE",
    "QUEUE_UNSCHEDULABLE",
    "SCHEDULER_MATCHING_DURATION",
    "SCHEDULER_MATCHING_PASSES",
    "WORKER_ACTIVE",
    "WORKER_BUSY",
    "WORKER_CONNECTED",
    "WORKER_CONNECTIONS",
    "WORKER_DISCONNECTIONS",
    "WORKER_EXECUTION_FAILURES",
    "WORKER_KEEPALIVES",
    "WORKER_STATE",
]

_WHERE: Final = ("execution.instance", "execution.worker_id", "execution.priority")
_MIB: Final = 1024.0 * 1024.0
_GIB: Final = 1024.0 * _MIB

# -- NativeLink's -------------------------------------------------------------------------------

EXECUTION_STAGE_DURATION: Final = Definition(
    "execution.stage.duration",
    Kind.HISTOGRAM,
    "s",
    "Time that a worker spent on fetching inputs, on the command, and on uploading outputs.",
    (*_WHERE, "execution.stage"),
    (
        0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
        3600.0,
    ),
)  # fmt: skip
EXECUTION_TOTAL_DURATION: Final = Definition(
    "execution.total.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from the request of an execution to its result.",
    _WHERE,
    (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0),
)
EXECUTION_QUEUE_TIME: Final = Definition(
    "execution.queue.time",
    Kind.HISTOGRAM,
    "s",
    "Time from the request of an execution until the worker that finished it got it.",
    _WHERE,
    (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0),
)
EXECUTION_ACTIVE: Final = Definition(
    "execution.active.count",
    Kind.UP_DOWN_COUNTER,
    "{action}",
    "Executions that are known, by stage; completed ones as long as they are kept.",
    ("execution.stage",),
)
EXECUTION_COMPLETED: Final = Definition(
    "execution.completed.count",
    Kind.COUNTER,
    "{action}",
    "Finished executions by result: `success` (exit code 0), `failure`, `timeout`, `cancelled`, "
    "`cache_hit`.",
    (*_WHERE, "execution.stage", "execution.result"),
)
EXECUTION_STAGE_TRANSITIONS: Final = Definition(
    "execution.stage.transitions",
    Kind.COUNTER,
    "{transition}",
    "Changes of an execution's stage, by the stage that was reached.",
    (*_WHERE, "execution.stage"),
)
EXECUTION_CPU_TIME: Final = Definition(
    "execution.cpu.time",
    Kind.HISTOGRAM,
    "s",
    "User and system CPU time of an action's processes, where the worker measured it.",
    ("execution.instance",),
    (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0),
)
EXECUTION_PEAK_MEMORY: Final = Definition(
    "execution.peak.memory",
    Kind.HISTOGRAM,
    "By",
    "Most resident memory that an action's processes had together, where the worker measured it.",
    ("execution.instance",),
    (
        1 * _MIB, 16 * _MIB, 64 * _MIB, 256 * _MIB, 1 * _GIB, 4 * _GIB, 16 * _GIB, 64 * _GIB,
    ),
)  # fmt: skip
EXECUTION_OUTPUT_SIZE: Final = Definition(
    "execution.output.size",
    Kind.HISTOGRAM,
    "By",
    "Size of an action's output files, stdout and stderr together, without output directories.",
    _WHERE,
    (
        1024.0, 10 * 1024.0, 100 * 1024.0, 1 * _MIB, 10 * _MIB, 100 * _MIB, 1 * _GIB, 10 * _GIB,
    ),
)  # fmt: skip
EXECUTION_RETRIES: Final = Definition(
    "execution.retry.count",
    Kind.COUNTER,
    "{retry}",
    "Executions that were queued again after a try failed.",
    _WHERE,
)
WORKER_CONNECTED: Final = Definition(
    "worker.connected.count", Kind.UP_DOWN_COUNTER, "{worker}", "Workers that are connected."
)
WORKER_CONNECTIONS: Final = Definition(
    "worker.connections", Kind.COUNTER, "{connection}", "Connections that workers made."
)
WORKER_DISCONNECTIONS: Final = Definition(
    "worker.disconnections",
    Kind.COUNTER,
    "{disconnection}",
    "Connections of workers that ended: `disconnected` by the worker, `evicted` by the scheduler.",
    ("worker.disconnect.reason",),
)
WORKER_KEEPALIVES: Final = Definition(
    "worker.keepalives", Kind.COUNTER, "{keepalive}", "Signs of life that workers sent."
)
WORKER_STATE: Final = Definition(
    "worker.state.count",
    Kind.UP_DOWN_COUNTER,
    "{worker}",
    "Workers that get no new actions: `draining` because somebody said so, `paused` because they "
    "said that they have no room, `quarantined` because what failed there went well elsewhere.",
    ("worker.state",),
)
SCHEDULER_MATCHING_DURATION: Final = Definition(
    "scheduler.matching.duration",
    Kind.HISTOGRAM,
    "s",
    "Time that the scheduler took for one event, the search for workers included.",
    (),
    (
        0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05,
        0.1, 0.5, 1.0,
    ),
)  # fmt: skip
SCHEDULER_MATCHING_PASSES: Final = Definition(
    "scheduler.matching.passes",
    Kind.COUNTER,
    "{pass}",
    "Events that the scheduler handled, after each of which it looked for workers.",
    ("scheduler.match.result",),
)

# -- ours ---------------------------------------------------------------------------------------

EXECUTION_HANDED_BACK: Final = Definition(
    "execution.handed_back.count",
    Kind.COUNTER,
    "{action}",
    "Executions whose worker was lost, left, or had no room, which is no fault of the action.",
    ("execution.instance",),
)
QUEUE_LENGTH: Final = Definition(
    "scheduler.queue.length",
    Kind.GAUGE,
    "{action}",
    "Executions that wait for a worker.",
    ("scheduler.name", "scheduler.platform"),
)
QUEUE_OLDEST_AGE: Final = Definition(
    "scheduler.queue.oldest.age",
    Kind.GAUGE,
    "s",
    "How long the execution has waited that is to be started next.",
    ("scheduler.name", "scheduler.platform"),
)
QUEUE_UNSCHEDULABLE: Final = Definition(
    "scheduler.queue.unschedulable",
    Kind.GAUGE,
    "{action}",
    "Executions that wait though no connected worker could ever run them.",
    ("scheduler.name",),
)
WORKER_ACTIVE: Final = Definition(
    "worker.active.count",
    Kind.GAUGE,
    "{worker}",
    "Workers that are connected and not draining.",
    ("scheduler.name",),
)
WORKER_BUSY: Final = Definition(
    "worker.busy.count",
    Kind.GAUGE,
    "{worker}",
    "Workers that have an action.",
    ("scheduler.name",),
)
WORKER_EXECUTION_FAILURES: Final = Definition(
    "worker.execution.failures",
    Kind.COUNTER,
    "{action}",
    "Tries to execute that failed on a worker, which is not the action's exit code.",
)

LOCAL_WORKER_RUNNING: Final = Definition(
    "worker.local.running",
    Kind.GAUGE,
    "{action}",
    "Actions that a worker of this process has under way, from the order to the result.",
    ("worker.name",),
)
LOCAL_WORKER_EXECUTED: Final = Definition(
    "worker.local.executed",
    Kind.COUNTER,
    "{action}",
    "Actions of a worker of this process that came to an end, however they did.",
    ("worker.name",),
)
LOCAL_WORKER_CONNECTED: Final = Definition(
    "worker.local.connected",
    Kind.GAUGE,
    "",
    "Whether a worker of this process is connected to its scheduler: 1 or 0.",
    ("worker.name",),
)
LOCAL_WORKER_CONNECTIONS: Final = Definition(
    "worker.local.connections",
    Kind.COUNTER,
    "{connection}",
    "How often a worker of this process connected to its scheduler; more than once after a "
    "connection was lost.",
    ("worker.name",),
)

#: NativeLink's instruments.
EXECUTION_CATALOGUE: Final = (
    EXECUTION_STAGE_DURATION,
    EXECUTION_TOTAL_DURATION,
    EXECUTION_QUEUE_TIME,
    EXECUTION_ACTIVE,
    EXECUTION_COMPLETED,
    EXECUTION_STAGE_TRANSITIONS,
    EXECUTION_CPU_TIME,
    EXECUTION_PEAK_MEMORY,
    EXECUTION_OUTPUT_SIZE,
    EXECUTION_RETRIES,
    WORKER_CONNECTED,
    WORKER_CONNECTIONS,
    WORKER_DISCONNECTIONS,
    WORKER_KEEPALIVES,
    WORKER_STATE,
    SCHEDULER_MATCHING_DURATION,
    SCHEDULER_MATCHING_PASSES,
)
#: Ours.
FARM_CATALOGUE: Final = (
    EXECUTION_HANDED_BACK,
    QUEUE_LENGTH,
    QUEUE_OLDEST_AGE,
    QUEUE_UNSCHEDULABLE,
    WORKER_ACTIVE,
    WORKER_BUSY,
    WORKER_EXECUTION_FAILURES,
    LOCAL_WORKER_RUNNING,
    LOCAL_WORKER_EXECUTED,
    LOCAL_WORKER_CONNECTED,
    LOCAL_WORKER_CONNECTIONS,
)
