"""What a scheduler tells its recorder, whose defects are not to cost an operation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nativelink.scheduler import effects, events
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.recorder import Recorder

__all__ = ["Recording"]

logger = logging.getLogger(__name__)


class Recording:
    """Makes what the recorder is told: operations as they are after an event.

    Args:
        recorder: told.
        machine: knows the operations.
    """

    def __init__(self, recorder: Recorder, machine: Machine) -> None:
        self._recorder = recorder
        self._machine = machine

    def used(
        self, event: events.ExecutionFinished, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        """A worker measured an execution; to be called before its result is handled."""
        view = self._machine.operation(event.operation_id)
        if (
            view is None
            or view.stage is not ExecutionStage.EXECUTING
            or view.worker_id != event.worker_id
        ):
            return
        try:
            self._recorder.resources_used(
                view, peak_memory_kb=peak_memory_kb, cpu_time_ms=cpu_time_ms
            )
        except Exception:
            logger.exception("what operation %s used could not be recorded", view.operation_id)

    def handled(self, found: Sequence[effects.Effect], took_s: float) -> None:
        """The machine handled an event, in so long, with these effects."""
        try:
            self._recorder.handled(took_s)
            for effect in found:
                self._record(effect)
        except Exception:
            logger.exception("what the scheduler did could not be recorded")

    def _record(self, effect: effects.Effect) -> None:
        match effect:
            case effects.StageChanged() if effect.after is not ExecutionStage.UNKNOWN:
                view = self._machine.operation(effect.operation_id)
                if view is not None:
                    self._recorder.stage_changed(view, effect.before, effect.after)
            case effects.AttemptEnded():
                view = self._machine.operation(effect.operation_id)
                if view is not None:
                    self._recorder.attempt_ended(
                        view, effect.worker_id, effect.reason, counted=effect.counted
                    )
            case _:
                pass
