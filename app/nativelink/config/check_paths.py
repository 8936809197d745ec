"""Checks of directories: what belongs to one part must not be inside of another one's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path as FilePath

from nativelink.config.check_files import exists
from nativelink.config.problems import Path, Problem, error, here, warning
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
    def fate(self) -> str:
        """What its owner does to files that it did not put there."""
        if self.use in {_Use.TEMPORARY, _Use.WORK}:
            return "is emptied at every start"
        return "is cleared of what its owner does not know"

    def __str__(self) -> str:
        return f'"{self.path[-1]}" ({self.directory})'


def check_paths(sections: Sections) -> Iterator[Problem]:
    """Findings about directories that overlap, or that lie on the wrong device."""
    directories = list(_directories(sections))
    for index, later in enumerate(directories):
        overlaps = (_overlap(earlier, later) for earlier in directories[:index])
        if (first := next(filter(None, overlaps), None)) is not None:
            yield first
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
        if worker.spec.work_directory:
            work = _normal(worker.spec.work_directory)
            yield _Directory((*worker.path, "work_directory"), work, _Use.WORK, worker.path)
        cache = worker.spec.directory_cache
        if cache is not None and cache.cache_root:
            place = (*worker.path, "directory_cache", "cache_root")
            yield _Directory(place, _normal(cache.cache_root), _Use.CACHE, worker.path)


def _normal(text: str) -> FilePath:
    # Not resolve(): the directories need not exist, and links may change until the start.
    return FilePath(FilePath(text).absolute())


def _overlap(earlier: _Directory, later: _Directory) -> Problem | None:
    if earlier.directory == later.directory:
        return _shared(earlier, later)
    if earlier.directory in later.directory.parents:
        return error(later.path, f"is inside of {earlier}, which {earlier.fate}")
    if later.directory in earlier.directory.parents:
        return error(later.path, f"contains {earlier}, but {later.fate}")
    return None


def _shared(earlier: _Directory, later: _Directory) -> Problem:
    between_stores = earlier.use is later.use and earlier.use in {_Use.CONTENT, _Use.TEMPORARY}
    if not between_stores or earlier.owner == later.owner:
        emptied = later if later.use in {_Use.TEMPORARY, _Use.WORK} else earlier
        return error(later.path, f"is the same directory as {earlier}, which {emptied.fate}")
    # It works after a fashion, so a file that has it still loads.
    if later.use is _Use.CONTENT:
        return warning(
            later.path,
            f"another store keeps its blobs in {later.directory} too: each evicts what the other "
            "counts on",
            hint="let one of them be a ref_store to the other",
        )
    return warning(
        later.path,
        f"another store writes in {later.directory} too, and empties it at its start",
        hint="give each store a temp_path of its own",
    )


def _device(content: _Directory, temporary: _Directory) -> Iterator[Problem]:
    one, other = _nearest(content.directory), _nearest(temporary.directory)
    try:
        same = one.stat().st_dev == other.stat().st_dev
    except OSError:
        return
    if not same:
        yield here(
            temporary.path,
            f"is on another device than content_path ({content.directory}), and finished blobs are "
            "renamed from one to the other",
            hint="choose a directory beside content_path",
        )


def _nearest(directory: FilePath) -> FilePath:
    """The directory, or the nearest one above it that exists."""
    while not exists(directory) and directory != directory.parent:
        directory = directory.parent
    return directory
