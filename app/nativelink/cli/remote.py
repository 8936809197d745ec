"""Commands that ask a server: their common options, and what becomes of errors."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, get_type_hints

import typer

from nativelink.cli.output import Screen
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from nativelink.client.obstacles import Obstacle
    from nativelink.client.remote import Remote

__all__ = ["Options", "RemoteCommand", "Session", "asks_server"]

#: What a shell says of a program that a signal ended.
_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141
_FAILED: Final = 2
_PANEL: Final = "Server"
#: A person waits no longer for a server that does not answer.
_CONNECT_TIMEOUT_S: Final = 10.0


class Function(StrEnum):
    """`--digest-function`."""

    SHA256 = "sha256"
    BLAKE3 = "blake3"


@dataclass(frozen=True, slots=True)
class Options:
    """What every command that asks a server takes."""

    server: Annotated[
        str,
        typer.Option(
            envvar="NATIVELINK_SERVER",
            help="The server, grpc://HOST:PORT, or grpcs:// for TLS.",
            metavar="URL",
            rich_help_panel=_PANEL,
        ),
    ] = "grpc://127.0.0.1:50051"
    instance: Annotated[
        str,
        typer.Option(
            envvar="NATIVELINK_INSTANCE",
            help="The instance name; empty by default, as Bazel's.",
            metavar="NAME",
            rich_help_panel=_PANEL,
        ),
    ] = ""
    digest_function: Annotated[
        Function,
        typer.Option(help="What names blobs.", rich_help_panel=_PANEL),
    ] = Function.SHA256
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="NATIVELINK_TLS_CA",
            help="Who may vouch for the server; by default, whom this machine trusts.",
            metavar="PEM",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            envvar="NATIVELINK_TLS_CERT",
            help="The certificate to show (mutual TLS), with --tls-key.",
            metavar="PEM",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="NATIVELINK_TLS_KEY",
            help="Its private key.",
            metavar="PEM",
            rich_help_panel=_PANEL,
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")] = False


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command.

    Attributes:
        options: what was asked for.
        remote: the server.
        screen: where the answer goes.
    """

    options: Options
    remote: Remote
    screen: Screen


#: `async def command(session, …)`; what it returns is the exit code, None for 0.
RemoteCommand: TypeAlias = Callable[..., Coroutine[Any, Any, int | None]]


def asks_server(app: typer.Typer, name: str) -> Callable[[RemoteCommand], RemoteCommand]:
    """Make a coroutine function a command of `app`, with the common options behind its own.

    The exit code is 2 when something fails, with one line on stderr that says what.
    """

    def register(command: RemoteCommand) -> RemoteCommand:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in list(inspect.signature(command).parameters.values())[1:]
        ]
        common = _common_parameters()

        def run(**values: Any) -> None:
            options = Options(**{each.name: values.pop(each.name) for each in common})
            raise typer.Exit(_run(command, options, values))

        parameters = [*own, *common]
        run.__doc__ = command.__doc__
        # What `inspect` looks for first; functions have none of their own.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name)(run)
        return command

    return register


def _common_parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Options, include_extras=True)
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in inspect.signature(Options).parameters.values()
    ]


def _run(command: RemoteCommand, options: Options, values: dict[str, Any]) -> int:
    # Of connections that fail grpcio tells its own story on standard error; commands tell ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from nativelink.core.errors import Code, NativeLinkError

    try:
        code = asyncio.run(_in_session(command, options, values))
        sys.stdout.flush()
    except NativeLinkError as error:
        message = printable(error.message)
        if error.code is Code.UNIMPLEMENTED:
            message = f"{options.server} does not serve that: {message}"
        print(f"nativelink: {message}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        # Python would complain about it once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        print(f"nativelink: standard output: {error.strerror}", file=sys.stderr)
        return _FAILED
    return code or 0


async def _in_session(
    command: RemoteCommand, options: Options, values: dict[str, Any]
) -> int | None:
    from nativelink.client.remote import open_remote
    from nativelink.compose.channels import endpoint_of, is_tls
    from nativelink.config.specs_common import ClientTlsSpec
    from nativelink.core.digest import DigestFunction
    from nativelink.core.errors import Code, NativeLinkError, invalid_argument

    if options.tls_cert is None and options.tls_key is not None:
        raise invalid_argument("--tls-key needs the certificate that belongs to it, --tls-cert")
    if options.tls_key is None and options.tls_cert is not None:
        raise invalid_argument("--tls-cert needs its private key, --tls-key")
    tls = None
    if options.tls_ca or options.tls_cert or options.tls_key:
        tls = ClientTlsSpec(
            ca_file=_text(options.tls_ca),
            cert_file=_text(options.tls_cert),
            key_file=_text(options.tls_key),
            use_native_roots=options.tls_ca is None,
        )
        if not is_tls(options.server):
            raise invalid_argument(f"{options.server} is no TLS address; grpcs://HOST:PORT is one")
    endpoint = endpoint_of(options.server, tls, connect_timeout_s=_CONNECT_TIMEOUT_S)
    try:
        async with open_remote(
            endpoint,
            instance_name=options.instance,
            function=DigestFunction[options.digest_function.name],
        ) as remote:
            return await command(Session(options, remote, Screen(as_json=options.json)), **values)
    except NativeLinkError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        from nativelink.client.obstacles import find_obstacle

        obstacle = await asyncio.to_thread(find_obstacle, endpoint)
        raise NativeLinkError(error.code, _unavailable(options, error.message, obstacle)) from error


def _unavailable(options: Options, message: str, obstacle: Obstacle | None) -> str:
    """What a person is told, and what may help."""
    if obstacle is None:
        return f"{options.server} can be reached, but not what was asked for: {message}"
    told = f"{options.server} cannot be reached: {obstacle.what}"
    remedy = _remedy(options, obstacle)
    return f"{told}; {remedy}" if remedy else told


def _remedy(options: Options, obstacle: Obstacle) -> str:
    from nativelink.client.obstacles import Fault

    address = options.server.partition("://")[2]
    match obstacle.fault:
        case Fault.CLOSED:
            return "is the server running?"
        case Fault.SILENT:
            return "is a firewall in between?"
        case Fault.PLAIN:
            return f"ask grpc://{address}"
        case Fault.TLS:
            return f"ask grpcs://{address}"
        case Fault.UNTRUSTED if options.tls_ca is None:
            return "--tls-ca names the file of its authority"
        case Fault.UNTRUSTED:
            return f"--tls-ca {options.tls_ca} is of another authority"
        case Fault.OTHER_NAME:
            return "call it by such a name"
        case Fault.CLIENT if options.tls_cert is None:
            return "--tls-cert and --tls-key show one"
        case Fault.CLIENT:
            return "its client_ca_file says whom it trusts"
        case _:
            return ""


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
