"""Answers from an action cache before a scheduler is asked."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from heapq import merge
from types import TracebackType
from typing import Any, Final, TypeAlias
from uuid import uuid4

from nativelink.core.clock import Clock
from nativelink.core.eager import begin
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    failed_precondition,
    internal,
    unavailable,
)
from nativelink.core.latch import Latch
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.scheduler import Scheduler, Watch, new_operation_name
from nativelink.scheduler.wrap.delegating import DelegatingScheduler

__all__ = ["CacheLookupScheduler", "Lookup"]

_log: Final = logging.getLogger(__name__)

#: The encoded ExecuteResponse of a cached, complete result; None if there is none.
Lookup: TypeAlias = Callable[[ActionKey], Coroutine[Any, Any, bytes | None]]

#: Answered operations that can still be asked for, so that a client whose connection broke need
#: not begin again; one that comes too late begins again, and is answered from the cache again.
_MAX_ANSWERED: Final = 1000
_ANSWERED_FOR_S: Final = 60.0
#: A cache that has not answered for so long is taken to have no result. Completeness of a result
#: with thousands of outputs may take seconds to check; nobody waits for a minute gladly.
_LOOKUP_TIMEOUT_S: Final = 60.0


class CacheLookupScheduler(DelegatingScheduler):
    """Asks an action cache first; what it does not have goes to the scheduler behind.

    Actions that are not to be cached, or that the client wants executed, go there at once. Several
    look-ups of one action at the same time are one. A cache that fails, or does not answer within
    a minute, has no result: a build takes longer without its cache, but must not stop (NativeLink
    answers with the cache's error).

    The check belongs to the operation and not to the client's stream: it goes on when the client
    leaves. While it waits, clients see the stage CACHE_CHECK. An async context manager; leaving it
    ends the checks.

    Args:
        backend: executes.
        lookup: see `Lookup`; what it raises is logged.
        clock: for the times that clients see.
    """

    def __init__(self, backend: Scheduler, lookup: Lookup, *, clock: Clock) -> None:
        super().__init__(backend)
        self._lookup = lookup
        self._clock = clock
        self._lookups: dict[ActionKey, asyncio.Task[bytes | None]] = {}
        #: Those that took too long.
        self._late: set[ActionKey] = set()
        self._checks: dict[str, _Check] = {}
        self._answered: OrderedDict[str, OperationView] = OrderedDict()

    async def __aenter__(self) -> CacheLookupScheduler:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks: list[asyncio.Task[Any]] = list(self._lookups.values())
        tasks += [check.task for check in self._checks.values() if check.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        if not action.joinable:
            return await self._backend.execute(action, name=name)
        check = _Check(
            OperationView(
                name=name or new_operation_name(action.key.instance_name),
                operation_id=str(uuid4()),
                action=action,
                stage=ExecutionStage.CACHE_CHECK,
                priority=action.priority,
                queued_at=self._clock.time(),
            )
        )
        watch = _CheckWatch(check, self._backend)
        self._checks[check.view.name] = check
        begun = begin(self._run(check), asyncio.get_running_loop())
        if not isinstance(begun, tuple):
            check.task = begun
        elif check.error is not None:
            raise check.error
        return watch

    async def watch(self, name: str) -> Watch:
        check = self._checks.get(name)
        if check is not None:
            return _CheckWatch(check, self._backend)
        view = self._answer(name)
        return await self._backend.watch(name) if view is None else _AnsweredWatch(view)

    async def get(self, name: str) -> OperationView:
        check = self._checks.get(name)
        view = self._answer(name) if check is None else check.view
        return await self._backend.get(name) if view is None else view

    async def operations(self, *, since: float = 0.0) -> Iterable[OperationView]:
        theirs = await self._backend.operations(since=since)
        self._forget_old()
        views = (*self._answered.values(), *(check.view for check in self._checks.values()))
        ours = sorted((view for view in views if view.queued_at >= since), key=_queued_at)
        return merge(theirs, ours, key=_queued_at)

    async def cancel(self, name: str) -> None:
        check = self._checks.get(name)
        if check is not None and check.task is not None:
            check.task.cancel()
            self._finish(check, failure=Failure(Code.CANCELLED, "the operation was cancelled"))
        elif self._answer(name) is None:
            await self._backend.cancel(name)

    async def delete(self, name: str) -> None:
        if name in self._checks:
            raise failed_precondition(
                f"operation {name} is not finished; only finished ones can be deleted"
            )
        if self._answer(name) is None:
            await self._backend.delete(name)
        else:
            del self._answered[name]

    # -- checks --------------------------------------------------------------------------------

    async def _run(self, check: _Check) -> None:
        """Look an operation up, and hand it to the scheduler behind if that finds nothing."""
        view = check.view
        try:
            response = await self._cached(view.action.key)
            if response is None:
                check.move(await self._backend.execute(view.action, name=view.name))
                del self._checks[view.name]
            else:
                self._finish(check, response=response, cached=True)
        except NativeLinkError as error:
            del self._checks[view.name]
            check.fail(error)
        except asyncio.CancelledError:
            if self._checks.pop(view.name, None) is not None:
                check.fail(unavailable("the scheduler stops; ask for the action again"))
            raise
        except Exception:  # noqa: BLE001 - a defect, but clients wait for the check to end
            _log.exception("operation %s could not begin", view.name)
            self._checks.pop(view.name, None)
            check.fail(internal(f"operation {view.name} could not begin; the log has the story"))

    async def _cached(self, key: ActionKey) -> bytes | None:
        task = self._lookups.get(key)
        if task is None:
            loop = asyncio.get_running_loop()
            begun = begin(self._looked_up(key), loop)
            if isinstance(begun, tuple):
                return begun[0]
            task = self._lookups[key] = begun
            timer = loop.call_later(_LOOKUP_TIMEOUT_S, self._give_up, key)

            def ended(_: object) -> None:
                timer.cancel()
                del self._lookups[key]

            task.add_done_callback(ended)
        # Shielded: others may wait for it too.
        return await asyncio.shield(task)

    def _give_up(self, key: ActionKey) -> None:
        """A look-up takes too long: whoever waits for it goes on without."""
        self._late.add(key)
        self._lookups[key].cancel()

    async def _looked_up(self, key: ActionKey) -> bytes | None:
        try:
            return await self._lookup(key)
        except NativeLinkError as error:
            if error.code is not Code.NOT_FOUND:
                _log.warning(
                    "the action cache could not be asked for %s, so it is executed: %s",
                    key.digest,
                    error,
                )
            return None
        except asyncio.CancelledError:
            if key not in self._late:
                raise
            self._late.discard(key)
            _log.warning(
                "the action cache has not answered for %s within %g s, so it is executed",
                key.digest,
                _LOOKUP_TIMEOUT_S,
            )
            return None
        except Exception:  # noqa: BLE001 - a defect of the cache must not stop builds either
            _log.exception("the look-up of %s failed, so it is executed", key.digest)
            return None

    def _finish(self, check: _Check, **fields: Any) -> None:
        """The operation ends here."""
        name = check.view.name
        check.view = replace(
            check.view,
            stage=ExecutionStage.COMPLETED,
            finished_at=self._clock.time(),
            **fields,
        )
        del self._checks[name]
        self._answered[name] = check.view
        self._forget_old()
        check.settled.set()

    # -- what was answered ---------------------------------------------------------------------

    def _answer(self, name: str) -> OperationView | None:
        self._forget_old()
        return self._answered.get(name)

    def _forget_old(self) -> None:
        now = self._clock.time()
        while self._answered:
            view = next(iter(self._answered.values()))
            age_s = now - (view.finished_at or now)
            # A wall clock that is set back keeps some a little longer, as the number is bounded.
            if age_s < _ANSWERED_FOR_S and len(self._answered) <= _MAX_ANSWERED:
                return
            self._answered.popitem(last=False)


def _queued_at(view: OperationView) -> float:
    return view.queued_at


class _Check:
    """One operation while the action cache is asked.

    Attributes:
        view: as clients see it; final once it is settled, unless it moved or failed.
        settled: the check is over.
        task: runs it, if it has to wait.
        moved: the scheduler behind has it under its name now.
        error: why it could not begin.
    """

    def __init__(self, view: OperationView) -> None:
        self.view = view
        self.settled = Latch()
        self.task: asyncio.Task[None] | None = None
        self.moved = False
        self.error: NativeLinkError | None = None
        self.watches = 0
        self._first: Watch | None = None

    def move(self, watch: Watch) -> None:
        """The scheduler behind took it; `watch` is for one of those who follow it here."""
        self.moved = True
        if self.watches:
            self._first = watch
        else:
            watch.close()
        self.settled.set()

    def fail(self, error: NativeLinkError) -> None:
        """It could not begin."""
        self.error = error
        self.settled.set()

    def take(self) -> Watch | None:
        """The watch that `move` brought, for who comes first."""
        watch, self._first = self._first, None
        return watch

    def leave(self) -> None:
        """One follower less."""
        self.watches -= 1
        if not self.watches and self._first is not None:
            self._first.close()
            self._first = None


class _CheckWatch:
    """Follows a check, and then the operation wherever it is."""

    def __init__(self, check: _Check, backend: Scheduler) -> None:
        self._check: _Check | None = check
        self._backend = backend
        self._behind: Watch | None = None
        self._told = False
        self._done = False
        check.watches += 1

    async def next(self) -> OperationView | None:
        if self._behind is None:
            if self._done:
                return None
            check = self._check
            if check is None:
                raise internal("a watch was asked after it was closed")
            if not check.settled.is_set:
                if not self._told:
                    self._told = True
                    return check.view
                await check.settled.wait()
            if check.error is not None:
                raise check.error.copy()
            if not check.moved:
                self._done = True
                return check.view
            self._behind = check.take() or await self._backend.watch(check.view.name)
        return await self._behind.next()

    def look(self) -> OperationView | None:
        if self._behind is not None:
            return self._behind.look()
        return None if self._check is None else self._check.view

    def close(self) -> None:
        if self._check is not None:
            self._check.leave()
            self._check = None
        if self._behind is not None:
            self._behind.close()


class _AnsweredWatch:
    """Gives a view that will not change any more."""

    def __init__(self, view: OperationView) -> None:
        self._view: OperationView | None = view

    async def next(self) -> OperationView | None:
        view, self._view = self._view, None
        return view

    def look(self) -> OperationView | None:
        return self._view

    def close(self) -> None:
        """Nobody keeps anything for it."""
