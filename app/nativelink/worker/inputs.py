"""The inputs of actions, from a digest to a directory and back to nothing.

`InputStager.stage` fetches the tree (`tree`) and its files (`input_files`), which stay leased until
`StagedInputs.release`; decides what to make of them (`staging`) and has that done (`hands`).
`StagedInputs.modified` tells, after the last process of the action has ended, whether somebody
wrote to a shared file. `InputStager.remove` removes the action's directory.

An action that writes to an input writes to the store's own inode if it may, as root or as the
owner. That is noticed by `modified`, the store gives the file up, and whoever used it is told: no
result that was made with it may be cached. From then on this worker copies that input, so the same
action, run once more, changes only what is its own (docs/adr/0010-inputs-are-links.md).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest
from nativelink.core.errors import unavailable
from nativelink.stores.disk import DiskLane, disk_error
from nativelink.stores.local_files import LeasedFile, LocalFiles
from nativelink.stores.store import Store
from nativelink.worker.hands.pool import FEW_STEPS, Hands
from nativelink.worker.hands.remove import remove_within
from nativelink.worker.input_files import InputFiles, LeasedInputs
from nativelink.worker.staging import executables_of, mode_of, plan_tree
from nativelink.worker.tree import InputTree, TreeFetcher

__all__ = ["InputStager", "StagedInputs"]

log: Final = logging.getLogger(__name__)

#: Files that were written to, and are copied now; the oldest are tried as links again.
_MAX_COPIED: Final = 10_000
#: How often staging begins anew because a file left the store in spite of its lease.
_TRIES: Final = 3


class StagedInputs:
    """Inputs in place.

    Args:
        tree: what is in place.
        leased: its files.
        files: where they are leased.
        copied: gets the files that were written to.
    """

    def __init__(
        self,
        tree: InputTree,
        leased: Collection[LeasedFile],
        files: LocalFiles,
        copied: dict[Digest, None],
    ) -> None:
        self._tree = tree
        self._leased = list(leased)
        self._files = files
        self._copied = copied

    async def modified(self) -> Sequence[str]:
        """Paths of inputs whose shared files were written to, by this action or another one.

        To be asked when the last process of the action has ended, and before `release`.
        """
        changed = {file.key for file in await self._files.changed(self._leased)}
        if not changed:
            return ()
        for key in changed:
            self._copied[key] = None
        while len(self._copied) > _MAX_COPIED:
            del self._copied[next(iter(self._copied))]
        return sorted(
            f"{path}/{file.name}" if path else file.name
            for path, directory in self._tree.walk()
            for file in directory.files
            if file.digest in changed
        )

    async def release(self) -> None:
        """Let the store evict the inputs again; a second call does nothing."""
        leased, self._leased = self._leased, []
        self._files.release(leased)


class InputStager:
    """Puts inputs in place, and takes them away.

    Args:
        cas: the worker's CAS, a fast_slow store.
        files: its fast side.
        hands: do what takes many system calls.
        trees: fetches the directories.
        lane: threads for the disk.
        max_concurrent_fetches: files fetched at the same time for an action.
    """

    def __init__(
        self,
        cas: Store,
        files: LocalFiles,
        hands: Hands,
        *,
        trees: TreeFetcher,
        lane: DiskLane,
        max_concurrent_fetches: int = 64,
    ) -> None:
        self._files = files
        self._hands = hands
        self._trees = trees
        self._inputs = InputFiles(
            cas, files, lane=lane, max_concurrent_fetches=max_concurrent_fetches
        )
        #: In the order in which they were noticed.
        self._copied: dict[Digest, None] = {}

    async def stage(self, root: Digest, into: Path, *, directories: Iterable[str]) -> StagedInputs:
        """Make the input tree in the new directory `into`, and `directories` in it.

        Cancelled or failed: nothing is leased; `into` may be there in part.

        Raises:
            NativeLinkError: FAILED_PRECONDITION with a `MissingBlob` for each blob that is absent;
                INVALID_ARGUMENT for a tree that cannot be, naming what is wrong with it;
                RESOURCE_EXHAUSTED if the disk is full.
        """
        tree = await self._trees.fetch(root)
        digests = tree.file_digests()
        needed = list(directories)
        for _ in range(_TRIES):
            leased = await self._inputs.lease(digests)
            try:
                await self._place(tree, leased, into, needed)
            except FileNotFoundError:
                # The store finds out which one is gone, and gives it up.
                await self._files.changed(list(leased.files.values()))
                self._files.release(list(leased.files.values()))
                await self.remove(into)
            except OSError as error:
                self._files.release(list(leased.files.values()))
                raise disk_error(error, f"putting the input tree {root} in place") from error
            except BaseException:
                self._files.release(list(leased.files.values()))
                raise
            else:
                return StagedInputs(tree, leased.files.values(), self._files, self._copied)
        raise unavailable(f"files of the input tree {root} left the store again and again")

    async def _place(
        self, tree: InputTree, leased: LeasedInputs, into: Path, directories: list[str]
    ) -> None:
        programs = executables_of(tree) & leased.files.keys()
        if programs:
            await self._files.executables([leased.files[key] for key in programs])
        plan = plan_tree(
            tree, directories=directories, elsewhere=leased.elsewhere, copied=self._copied
        )
        await self._hands.run(
            "place",
            plan,
            str(into),
            str(self._files.directory),
            str(self._files.executable_directory),
            steps=plan.steps,
        )
        if leased.elsewhere:
            for path, directory in tree.walk():
                for file in directory.files:
                    if file.digest in leased.elsewhere:
                        await self._inputs.stream(
                            file.digest, into / path / file.name, mode_of(file), file.mtime_ns
                        )

    async def remove(self, directory: Path) -> None:
        """Remove an action's directory, whatever the action left in it.

        What cannot be removed is reported and left; the worker's next start tries again.
        """
        try:
            if not remove_within(str(directory), FEW_STEPS):
                await self._hands.run("remove", str(directory))
        except OSError as error:
            log.warning("cannot remove all of %s: %s", directory, error)
