"""Checks of directories: what belongs to one part must not be inside of another one's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path as FilePath

from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections, walk_specs
from nativelink.config.specs_stores import FilesystemSpec

__all__ = ["check_paths"]


class _Use(Enum):
    CONTENT = auto()
    TEMPORARY = auto()
    WORK = auto()
    CACHE = auto()


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory that a part of the configuration manages.

    Attributes:
        owner: equal for the directories of one store or worker.
    """

    path: Path
    directory: FilePath
    use: _Use
    owner: Path

    @property
    def emptied(self) -> bool:
        """Whether everything in it is deleted at start."""
        return self.use in {_Use.TEMPORARY, _Use.WORK}

    def describe(self) -> str:
        """The key that gave it, for another one's message."""
        return f'"{self.path[-1]}" ({self.directory})'


def check_paths(sections: Sections) -> Iterator[Problem]:
    """Findings about directories that overlap, or that lie on the wrong device."""
    directories = list(_directories(sections))
    for index, later in enumerate(directories):
        for earlier in directories[:index]:
            yield from _overlap(earlier, later)
    for one in directories:
        for other in directories:
            if one.use is _Use.CONTENT and other.use is _Use.TEMPORARY and one.owner == other.owner:
                yield from _device(one, other)


def _directories(sections: Sections) -> Iterator[_Directory]:
    for entry in sections.stores:
        if entry.spec is None:
            continue
        for path, spec in walk_specs(entry.spec, entry.kind_path):
            if isinstance(spec, FilesystemSpec):
                for key, text, use in (
                    ("content_path", spec.content_path, _Use.CONTENT),
                    ("temp_path", spec.temp_path, _Use.TEMPORARY),
                ):
                    yield _Directory((*path, key), _normal(text), use, path)
    for worker in sections.workers:
        work = _normal(worker.spec.work_directory)
        yield _Directory((*worker.path, "work_directory"), work, _Use.WORK, worker.path)
        cache = worker.spec.directory_cache
        if cache is not None:
            place = (*worker.path, "directory_cache")
            if "cache_root" in cache.model_fields_set:
                place = (*place, "cache_root")
            yield _Directory(place, _normal(cache.cache_root), _Use.CACHE, worker.path)


def _normal(text: str) -> FilePath:
    # Not resolve(): the directories need not exist, and links may change until the start.
    return FilePath(FilePath(text).absolute())


def _overlap(earlier: _Directory, later: _Directory) -> Iterator[Problem]:
    one, other = earlier.directory, later.directory
    if one != other and one not in other.parents and other not in one.parents:
        return
    if one == other and earlier.use is later.use and earlier.owner != later.owner:
        if later.use in {_Use.CONTENT, _Use.TEMPORARY}:
            yield warning(
                later.path,
                f"another store has the same directory ({other}): each evicts what the other one "
                "counts on",
                hint="share one store by ref_store instead"
                if later.use is _Use.CONTENT
                else "give each store its own",
            )
            return
        yield error(later.path, f"another worker has the same directory ({other})")
        return
    outer, inner = (earlier, later) if one == other or one in other.parents else (later, earlier)
    where = "the same directory as" if one == other else "inside of"
    if outer.directory != later.directory or one == other:
        fact = f"is {where} {earlier.describe()}"
    else:
        fact = f"contains {earlier.describe()}"
    danger = (
        "which is emptied at every start"
        if outer.emptied or (one == other and inner.emptied)
        else "whose owner deletes what it does not know"
    )
    if outer is later and one != other:
        danger = (
            "which would be emptied at every start" if outer.emptied else "which would be deleted"
        )
    yield error(later.path, f"{fact}, {danger}")


def _device(content: _Directory, temporary: _Directory) -> Iterator[Problem]:
    one, other = _nearest(content.directory), _nearest(temporary.directory)
    try:
        same = one.stat().st_dev == other.stat().st_dev
    except OSError:
        return
    if not same:
        yield warning(
            temporary.path,
            f"is on another device than content_path ({content.directory}): finished blobs are "
            "moved between them",
            hint="choose a directory beside content_path",
        )


def _nearest(directory: FilePath) -> FilePath:
    """The directory, or the nearest one above it that exists."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory
