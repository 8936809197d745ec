"""An action with its command, as they stand in the CAS."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nativelink.client.remote import Remote
from nativelink.core.digest import Digest
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

__all__ = ["Description", "fetch_action", "output_paths", "platform_of", "shell_quoted"]

#: What a terminal would obey, and what would not survive being copied from one.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Description:
    """An action, and what it runs.

    Attributes:
        digest: of the Action.
        action: the Action.
        command: its Command.
    """

    digest: Digest
    action: pb.Action
    command: pb.Command

    @property
    def command_digest(self) -> Digest:
        """Of the Command."""
        return _digest(self.action.command_digest)

    @property
    def input_root(self) -> Digest:
        """Of the root Directory of its inputs."""
        return _digest(self.action.input_root_digest)

    @property
    def timeout_s(self) -> float | None:
        """Seconds that it may run; None if it does not say."""
        if not self.action.HasField("timeout"):
            return None
        return self.action.timeout.seconds + self.action.timeout.nanos / 1e9

    @property
    def environment(self) -> dict[str, str]:
        """Its environment variables."""
        return {each.name: each.value for each in self.command.environment_variables}

    def script(self) -> list[str]:
        """Lines of a shell script that runs the command from the root of its inputs.

        They can be pasted whatever they hold: what a terminal would obey is written as an escape
        (`$'…'`, which bash, ksh and zsh know).
        """
        lines: list[str] = []
        if self.command.working_directory:
            lines.append(f"cd {shell_quoted(self.command.working_directory)} &&")
        # Who runs actions makes these before (REAPI v2.1, Command.output_paths).
        parents = {path.rpartition("/")[0] for path in output_paths(self.command)} - {""}
        if parents:
            lines.append(f"mkdir -p {' '.join(map(shell_quoted, sorted(parents)))} &&")
        # The environment is exactly the one that the action names.
        lines.append("env -i \\")
        lines += [
            f"  {shell_quoted(f'{name}={value}', assignment=True)} \\"
            for name, value in self.environment.items()
        ]
        lines.append("  " + " ".join(map(shell_quoted, self.command.arguments)))
        return lines


async def fetch_action(remote: Remote, digest: Digest) -> Description:
    """Read an Action and its Command.

    Raises:
        NativeLinkError: NOT_FOUND naming what the CAS lacks; INVALID_ARGUMENT for a blob that is
            something else.
    """
    action = await remote.message(digest, pb.Action)
    command = await remote.message(_digest(action.command_digest), pb.Command)
    return Description(digest, action, command)


def platform_of(action: pb.Action, command: pb.Command) -> dict[str, list[str]]:
    """The platform's properties; the Action's own one counts (REAPI v2.2), if it has one."""
    platform = action.platform if action.HasField("platform") else command.platform
    properties: dict[str, list[str]] = {}
    for each in platform.properties:
        properties.setdefault(each.name, []).append(each.value)
    return properties


def output_paths(command: pb.Command) -> Sequence[str]:
    """What the command is to make: the newer list, or the older two together (REAPI v2.1)."""
    if command.output_paths:
        return list(command.output_paths)
    return sorted([*command.output_files, *command.output_directories])


def shell_quoted(text: str, *, assignment: bool = False) -> str:
    """A word for a shell.

    Args:
        text: what the program gets.
        assignment: write `NAME='value'`, which reads better than `'NAME=value'`.
    """
    if assignment:
        name, _, value = text.partition("=")
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            return f"{name}={shell_quoted(value) if value else ''}"
    if _UNPRINTABLE.search(text) is None:
        return shlex.quote(text).replace("'\"'\"'", "'\\''")
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_UNPRINTABLE.sub(_escaped, quoted)}'"


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    return short or "".join(f"\\x{byte:02x}" for byte in character.encode())


def _digest(message: pb.Digest) -> Digest:
    return Digest.parse(message.hash, message.size_bytes)
