"""The inputs of actions, from a digest to a directory and back to nothing.

`InputStager.stage` fetches the tree (`tree`) and its files (`input_files`), which stay leased until
`StagedInputs.release`; decides what to make of them (`staging`) and has that done (`hands`).
`StagedInputs.modified` tells, after the last process of the action has ended, whether somebody
wrote to a shared file. `InputStager.remove` removes the action's directory.

An action that writes to an input writes to the store's own inode if it may, as root or as the
owner. That is noticed by `modified`, the store gives the file up, and whoever used it is told: no
result that was made with it may be cached. From then on this worker copies that input, so the same
action, run once more, changes only what is its own (docs/adr/0011-inputs-are-links.md).
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.stores.disk import DiskLane
from nativelink.stores.disk_calls import disk_error
from nativelink.stores.local_files import LeasedFile, LocalFiles
from nativelink.stores.store import Store
from nativelink.worker.directory_cache import DirectoryCache, KeptTree
from nativelink.worker.hands.overlay import scratch_of, upper_of
from nativelink.worker.hands.place import Place, Plan
from nativelink.worker.hands.pool import Hands
from nativelink.worker.input_files import InputFiles, LeasedInputs
from nativelink.worker.staging import executables_of, mode_of, plan_directories, plan_tree
from nativelink.worker.tree import InputTree, TreeFetcher

__all__ = ["InputStager", "StagedInputs"]

log: Final = logging.getLogger(__name__)

#: Files that were written to, and are copied now; the oldest are tried as links again.
_MAX_COPIED: Final = 10_000
#: What is wrong with a tree, and not with this machine.
_CLIENTS: Final = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION})
#: More bytes take longer to copy than to show.
_SMALL_BYTES: Final = 64 << 10
#: A tree without anything.
_BARE: Final = Plan([Place("", [], [], [], [], None, None)], [], [], 1)
#: How often staging begins anew because a file left the store in spite of its lease.
_TRIES: Final = 3


class StagedInputs:
    """Inputs in place.

    Args:
        tree: what is in place.
        leased: its files.
        files: where they are leased.
        copied: gets the files that were written to.
        inside: see `directories.ActionDirectory`.
    """

    def __init__(
        self,
        tree: InputTree,
        leased: Collection[LeasedFile],
        files: LocalFiles,
        copied: dict[Digest, None],
        inside: Sequence[str] | None = None,
    ) -> None:
        self.inside = inside
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

    def files(self, seen_from: str) -> Iterator[tuple[str, Digest]]:
        """Paths of all files, relative to a directory, with their digests.

        Args:
            seen_from: that directory, relative to the root of the tree.
        """
        for path, directory in self._tree.walk():
            if directory.files:
                place = os.path.relpath(path or ".", seen_from or ".")
                prefix = "" if place == "." else f"{place}/"
                for file in directory.files:
                    yield prefix + file.name, file.digest

    async def release(self) -> None:
        """Let the store evict the inputs again; a second call does nothing."""
        leased, self._leased = self._leased, []
        self._files.release(leased)


class _Everything:
    """Contains every digest."""

    def __contains__(self, _: object) -> bool:
        return True


class InputStager:
    """Puts inputs in place, and takes them away.

    With a directory cache, trees are shown instead of linked, and nothing that an action could
    write to is shared. So that it stays like this, a tree that cannot be shown is copied, and so is
    one for which that is cheaper.

    Args:
        cas: the worker's CAS, a fast_slow store.
        files: its fast side.
        hands: do what takes many system calls.
        trees: fetches the directories.
        lane: threads for the disk.
        max_concurrent_fetches: files fetched at the same time for an action.
        cache: keeps whole trees; opened, and able to show them.
        small_nodes: trees of so many files, directories and links, and of no more than 64 KiB, are
            copied all the same: a mount and its end take 1 to 2 ms, a file 70 us.
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
        cache: DirectoryCache | None = None,
        small_nodes: int = 12,
    ) -> None:
        self._files = files
        self._hands = hands
        self._trees = trees
        self._inputs = InputFiles(
            cas, files, lane=lane, max_concurrent_fetches=max_concurrent_fetches
        )
        self._cache = cache
        self._small_nodes = small_nodes
        self._lane = lane
        #: In the order in which they were noticed.
        self._copied: dict[Digest, None] = {}
        #: What is shown, by the directory that holds it.
        self._shown: dict[Path, tuple[Path, KeptTree]] = {}

    async def stage(
        self,
        root: Digest,
        into: Path,
        *,
        directories: Iterable[str],
        movable: bool = False,
        is_furnished: bool = False,
    ) -> StagedInputs:
        """Make the input tree in the directory `into`, and `directories` in it.

        It is new, empty, or, if it `is_furnished`, holds all of these directories and nothing
        else.

        With a directory cache `{into}.upper` and `{into}.scratch` are made, too. Cancelled or
        failed: nothing is leased; `into` may be there in part.

        What is in a `movable` directory can be renamed into another one, so it is no mount. Its
        files are links: who compares inodes sees that they are the same ones again.

        Raises:
            NativeLinkError: FAILED_PRECONDITION with a `MissingBlob` for each blob that is absent;
                INVALID_ARGUMENT for a tree that cannot be, naming what is wrong with it;
                RESOURCE_EXHAUSTED if the disk is full.
        """
        tree = await self._trees.fetch(root)
        needed = list(directories)
        if tree.is_bare and not needed:
            await self._put(_BARE, into)
            return StagedInputs(tree, (), self._files, self._copied, inside=())
        if self._cache is None or movable:
            staged = await self._link(
                tree, into, needed, copied=self._copied, is_furnished=is_furnished
            )
            if movable:
                staged.inside = None
            return staged
        is_small = self._is_small(tree)
        if not is_small and await self._show(self._cache, tree, into, needed):
            # Nothing is shared, so nothing is leased. The tree is in use until `remove`.
            return StagedInputs(tree, (), self._files, self._copied)
        staged = await self._link(
            tree, into, needed, copied=_Everything(), is_furnished=is_furnished
        )
        await staged.release()
        if not is_small:
            # The next one may be shown.
            staged.inside = None
        return staged

    def _is_small(self, tree: InputTree) -> bool:
        return (
            tree.nodes <= self._small_nodes
            and sum(digest.size_bytes for digest in tree.file_digests()) <= _SMALL_BYTES
        )

    async def _link(
        self,
        tree: InputTree,
        into: Path,
        directories: list[str],
        *,
        copied: Container[Digest],
        is_furnished: bool = False,
    ) -> StagedInputs:
        digests = tree.file_digests()
        for _ in range(_TRIES):
            leased = await self._inputs.lease(digests)
            files = list(leased.files.values())
            try:
                inside = await self._place(
                    tree, leased, into, directories, copied, is_furnished=is_furnished
                )
            except FileNotFoundError:
                # The store finds out which one is gone, and gives it up.
                await self._files.changed(files)
                self._files.release(files)
                await self.remove(into)
                is_furnished = False
            except OSError as error:
                self._files.release(files)
                raise disk_error(error, f"putting the input tree {tree.root} in place") from error
            except BaseException:
                self._files.release(files)
                raise
            else:
                return StagedInputs(tree, files, self._files, self._copied, inside)
        raise unavailable(f"files of the input tree {tree.root} left the store again and again")

    async def _place(
        self,
        tree: InputTree,
        leased: LeasedInputs,
        into: Path,
        directories: list[str],
        copied: Container[Digest],
        *,
        is_furnished: bool,
    ) -> Sequence[str] | None:
        programs = [
            leased.files[key]
            for key in executables_of(tree)
            if key in leased.files and key not in copied
        ]
        if programs:
            await self._files.executables(programs)
        plan = plan_tree(tree, directories=directories, elsewhere=leased.elsewhere, copied=copied)
        await self._put(plan, into, is_furnished=is_furnished)
        if leased.elsewhere:
            for path, directory in tree.walk():
                for file in directory.files:
                    if file.digest in leased.elsewhere:
                        await self._inputs.stream(
                            file.digest, into / path / file.name, mode_of(file), file.mtime_ns
                        )
        return plan.directories

    async def _put(self, plan: Plan, into: Path, *, is_furnished: bool = False) -> None:
        await self._hands.run(
            "place",
            plan,
            str(into),
            str(self._files.directory),
            str(self._files.executable_directory),
            is_furnished,
            steps=plan.steps - (plan.furniture if is_furnished else 0),
        )

    async def _show(
        self, cache: DirectoryCache, tree: InputTree, into: Path, directories: list[str]
    ) -> bool:
        """Show the kept tree; False if that does not work now."""
        additions, behind_links = plan_directories(tree, directories)

        async def build(path: Path) -> None:
            await (await self._link(tree, path, [], copied=())).release()

        try:
            kept = await cache.lease(tree, build)
        except NativeLinkError as error:
            if error.code in _CLIENTS:
                raise
            log.warning("the input tree %s is not kept: %s", tree.root, error)
            return False
        except OSError as error:
            log.warning("the input tree %s is not kept: %s", tree.root, error)
            return False
        try:
            await self._hands.run("show", str(kept.path), str(into), additions, behind_links)
        except OSError as error:
            log.warning("the input tree %s cannot be shown: %s", tree.root, error)
            for path in (into, upper_of(into), scratch_of(into)):
                await self.remove(path)
            await cache.release(kept)
            return False
        except BaseException:
            await self.remove(into)
            await cache.release(kept)
            raise
        self._shown[into.parent] = (into, kept)
        return True

    async def recover(self, work_directory: Path) -> None:
        """Clean up after an earlier process, which may have died while actions ran.

        Nobody has looked at what those actions did to their inputs, so the files are read again.

        Raises:
            NativeLinkError: the disk failed.
        """
        try:
            left = await self._lane.run(lambda: list(work_directory.iterdir()))
            inodes = await self._lane.run(
                lambda: {inode for each in left for inode in _linked_inodes(each)}
            )
        except OSError as error:
            raise disk_error(error, f"cannot look into {work_directory}") from error
        if inodes:
            await self._files.recheck(inodes)
        for each in left:
            await self.remove(each)

    def backing(self, path: Path) -> Path:
        """Where a file below a staged directory really is, for who wants to move it away."""
        if self._shown:
            for into, _ in (self._shown[each] for each in path.parents if each in self._shown):
                if path.is_relative_to(into):
                    real = upper_of(into) / path.relative_to(into)
                    return real if os.path.lexists(real) else path
        return path

    async def clear(self, directory: Path, kept: Sequence[str], streams: Collection[str]) -> bool:
        """Remove what is in an action's directory, but for directories; see `hands.clear`.

        Returns:
            False if that did not do.
        """
        if directory in self._shown:
            return False
        try:
            is_clear = await self._hands.run("clear", str(directory), kept, tuple(streams))
        except (OSError, NativeLinkError) as error:
            log.debug("%s is not used again: %s", directory, error)
            return False
        return bool(is_clear)

    async def remove(self, directory: Path) -> None:
        """Remove an action's directory, whatever the action left in it.

        What cannot be removed is reported and left; the worker's next start tries again.
        """
        shown = self._shown.pop(directory, None)
        try:
            # By another process however little there is: on ext4 each directory that goes waits for
            # the journal while files of others are made durable, and nobody waits for this.
            await self._hands.run("remove", str(directory))
        except OSError as error:
            log.warning("cannot remove all of %s: %s", directory, error)
        finally:
            if shown is not None and self._cache is not None:
                await self._cache.release(shown[1])


def _linked_inodes(path: Path) -> Iterator[int]:
    """Inode numbers of the files below a directory that have other names; mounts are passed by."""
    try:
        device = path.lstat().st_dev
        entries = list(os.scandir(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for entry in entries:
        status = entry.stat(follow_symlinks=False)
        if status.st_dev != device:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _linked_inodes(Path(entry.path))
        elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            yield status.st_ino
