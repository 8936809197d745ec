"""Workers: what runs actions on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from typing_extensions import TypeAliasType

from nativelink.config.choices import OneKey, key_of
from nativelink.config.fields import (
    Flag,
    Fraction64,
    Items,
    Milliseconds,
    NoEffect,
    NullIs,
    Number,
    PathText,
    Seconds,
    Size,
    Spec,
    Text,
    Verbatim,
    Zero,
)
from nativelink.config.specs_common import OptionalClientTls

__all__ = [
    "ActionLimitsSpec",
    "DirectoryCacheSpec",
    "EndpointSpec",
    "EnvironmentSource",
    "FromProperty",
    "FromValue",
    "LocalWorkerSpec",
    "PropertyCommand",
    "PropertyValues",
    "UploadActionResultSpec",
    "UploadStrategy",
    "WorkerProperty",
    "WorkerSpec",
]


class EndpointSpec(Spec):
    """Where the worker finds its scheduler."""

    uri: Text = Field(description="`grpc://host:port`, or `grpcs://host:port` for TLS.")
    timeout: Annotated[Fraction64, NullIs(5.0), AfterValidator(lambda seconds: seconds or 5.0)] = (
        Field(
            default=5.0, description="Seconds that a request may take, with a fraction. 0 means 5."
        )
    )
    tls_config: OptionalClientTls = Field(
        default=None, description="Required with a TLS address, refused with a plain one."
    )


class UploadStrategy(StrEnum):
    """Which results are uploaded."""

    SUCCESS_ONLY = "success_only"
    NEVER = "never"
    EVERYTHING = "everything"
    FAILURES_ONLY = "failures_only"


class UploadActionResultSpec(Spec):
    """What becomes of the results of actions."""

    ac_store: Verbatim | None = Field(
        default=None,
        description="Name of the store that is the action cache. Unset: results are not cached.",
    )
    upload_ac_results_strategy: Annotated[UploadStrategy, Items] = Field(
        default=UploadStrategy.SUCCESS_ONLY,
        description="Which results go to `ac_store`: `success_only` (exit code 0), "
        "`failures_only`, `everything`, `never`.",
    )
    historical_results_store: Verbatim | None = Field(
        default=None,
        description="Name of the CAS store for results that people may want to look at later. "
        "Unset: the worker's CAS.",
    )
    upload_historical_results_strategy: Annotated[
        UploadStrategy, Items, NullIs(UploadStrategy.FAILURES_ONLY)
    ] = Field(
        default=UploadStrategy.FAILURES_ONLY,
        description="Which results go to `historical_results_store`.",
    )
    success_message_template: Text = Field(
        default="",
        description=(
            "Message to the client with a result of exit code 0. Replaced in it: "
            "`{digest_function}`, `{action_digest_hash}`, `{action_digest_size}`, "
            "`{historical_results_hash}`, `{historical_results_size}`. Empty: no message."
        ),
    )
    failure_message_template: Text = Field(
        default="", description="The same with every other result."
    )


class PropertyValues(Spec):
    """A platform property with fixed values."""

    KIND: ClassVar[str] = "values"

    values: Annotated[tuple[Text, ...], Items] = Field(
        description="The values; several only where the scheduler treats the property as "
        "`priority`."
    )


class PropertyCommand(Spec):
    """A platform property whose values a program prints."""

    KIND: ClassVar[str] = "query_cmd"

    query_cmd: Verbatim = Field(
        description="Program with arguments (no shell), run when the worker starts; each line "
        "that it prints is a value."
    )


WorkerProperty = TypeAliasType(
    "WorkerProperty",
    Annotated[
        Annotated[PropertyValues, Tag("values")] | Annotated[PropertyCommand, Tag("query_cmd")],
        Discriminator(key_of),
        OneKey("property source"),
    ],
)


class FromProperty(Spec):
    """Takes an environment variable from the action's platform properties."""

    KIND: ClassVar[str] = "property"

    property: Verbatim = Field(description="The platform property whose value it gets.")


class FromValue(Spec):
    """Sets an environment variable to a fixed text."""

    KIND: ClassVar[str] = "value"

    value: Text = Field(description="The text.")


#: `from_environment`: the worker's own variable of that name. `timeout_millis`: the action's
#: timeout. `side_channel_file`: a file through which the action can say how it failed.
#: `action_directory`: a directory that is removed after the action.
EnvironmentSource = TypeAliasType(
    "EnvironmentSource",
    Annotated[
        Annotated[FromProperty, Tag("property")]
        | Annotated[FromValue, Tag("value")]
        | Annotated[Literal["from_environment"], Tag("from_environment")]
        | Annotated[Literal["timeout_millis"], Tag("timeout_millis")]
        | Annotated[Literal["side_channel_file"], Tag("side_channel_file")]
        | Annotated[Literal["action_directory"], Tag("action_directory")],
        Discriminator(key_of),
        OneKey(
            "environment source",
            ("from_environment", "timeout_millis", "side_channel_file", "action_directory"),
        ),
    ],
)


#: A directory is shown by one mount, and all it costs to build one is a link for each file.
_NO_SUBTREES: Final = (
    "files are in the store and subdirectories in memory, so that a new directory fetches nothing "
    "that an older one had"
)


class DirectoryCacheSpec(Spec):
    """Keeps whole input directories between actions instead of building each anew.

    An action sees a kept directory through an overlay mount of its own, which takes about a
    millisecond for any number of files, and cannot change it. That needs root (CAP_SYS_ADMIN), and
    with `use_namespaces` a file system that is mounted shared. Where it is not possible a warning
    says why, and inputs are linked for every action as without this.
    """

    max_entries: Annotated[Number, Zero(1000)] = Field(
        default=1000, description="Directories kept."
    )
    max_size_bytes: Size = Field(
        default=10 * 1024**3, description="Bytes of all kept directories. 0: no limit."
    )
    cache_root: PathText = Field(
        default="",
        description="Where they are kept, on the device of `work_directory`. Empty: "
        "`directory_cache` beside `work_directory`.",
    )
    experimental_subtree_caching: Annotated[Flag, NoEffect(_NO_SUBTREES)] = Field(
        default=False, description="Keep subdirectories, too."
    )
    max_concurrent_fetches: Annotated[Number, Field(ge=1)] = Field(
        default=64, description="Blobs fetched at the same time for a directory, at least 1."
    )
    experimental_get_tree_prefetch: Flag = Field(
        default=False, description="Ask the CAS for a whole tree of directories in one call."
    )


class ActionLimitsSpec(Spec):
    """What one action may use at most, where the host has cgroup v2."""

    memory_bytes: Size = Field(default=0, description="Bytes of memory. 0: no limit.")
    cpus: Fraction64 = Field(default=0.0, description="Processors, with a fraction. 0: no limit.")
    pids: Number = Field(default=0, description="Processes and threads. 0: no limit.")


_NO_WAIT: Final = "every run of an action has a directory of its own"


class LocalWorkerSpec(Spec):
    """A worker in this process."""

    name: Text = Field(
        default="",
        description="Prefix of the worker's id, seen in logs and metrics. Empty: `worker_` and "
        "its position in the list.",
    )
    worker_api_endpoint: EndpointSpec = Field(description="The scheduler's worker API.")
    max_action_timeout_s: Annotated[Seconds, Zero(1200)] = Field(
        default=1200,
        description="Seconds that an action may run; one that asks for more is refused.",
    )
    max_input_fetch_timeout_s: Annotated[Seconds, Zero(600)] = Field(
        default=600,
        description="Seconds that it may take to fetch an action's inputs and put them in place; "
        "then the action is tried again, elsewhere if possible.",
    )
    max_upload_timeout_s: Annotated[Seconds, Zero(600)] = Field(
        default=600, description="Seconds that the upload of an action's outputs may take."
    )
    max_cleanup_wait_s: Annotated[Seconds, Zero(30), NoEffect(_NO_WAIT)] = Field(
        default=30,
        description="Seconds to wait for the clean-up of an older run of the same action.",
    )
    max_cleanup_backoff_ms: Annotated[Milliseconds, Zero(500), NoEffect(_NO_WAIT)] = Field(
        default=500, description="Longest pause, in milliseconds, between two looks at it."
    )
    max_inflight_tasks: Number = Field(
        default=0, description="Actions that run at the same time. 0: as many as are sent."
    )
    timeout_handled_externally: Flag = Field(
        default=False,
        description="The entrypoint ends actions at the timeout they asked for; the worker only "
        "at `max_action_timeout_s`.",
    )
    entrypoint: Text = Field(
        default="",
        description="Program (no shell) that gets each action's command as its arguments. "
        "Empty: the command is run itself.",
    )
    experimental_precondition_script: Verbatim | None = Field(
        default=None,
        description="Program run before every action; while it exits other than 0 the worker "
        "takes no action. Unset: none.",
    )
    cas_fast_slow_store: Text = Field(
        description="Name of the worker's CAS: a fast_slow store whose fast side is a filesystem "
        "store, because inputs are hard links to its files."
    )
    upload_action_result: Annotated[UploadActionResultSpec, NullIs(UploadActionResultSpec())] = (
        Field(default=UploadActionResultSpec(), description="What becomes of results.")
    )
    work_directory: PathText = Field(
        default="",
        description="Directory of running actions, on the device of the CAS's fast side. It "
        "belongs to the worker and is emptied at start. Empty: in a directory beside the "
        "`content_path` of the CAS's fast side, with its name and `.work`.",
    )
    platform_properties: Mapping[str, WorkerProperty] = Field(
        description="What the worker offers to actions, by property name."
    )
    additional_environment: Annotated[Mapping[str, EnvironmentSource], NullIs({})] = Field(
        default={},
        description=(
            "Environment variables that actions get besides their own: `{property: name}`, "
            '`{value: text}`, `"from_environment"` (the worker\'s own), `"timeout_millis"`, '
            '`"side_channel_file"`, `"action_directory"`.'
        ),
    )
    directory_cache: DirectoryCacheSpec | None = Field(
        default=None, description="Keep input directories between actions. Unset: no."
    )
    experimental_active_input_leases: Annotated[
        Flag, NoEffect("the inputs of running actions are always protected from eviction")
    ] = Field(default=False, description="Protect the inputs of running actions.")
    use_namespaces: Annotated[Flag, NullIs(False)] = Field(
        default=False,
        description="Run actions in their own Linux namespaces; true refuses to start where the "
        "kernel does not allow it.",
    )
    use_mount_namespace: Annotated[Flag, NullIs(False)] = Field(
        default=False,
        description="Also hide the rest of the file system; needs `use_namespaces`.",
    )
    use_network_namespace: Annotated[Flag, NullIs(None)] | None = Field(
        default=None,
        description="Actions reach no network, unless their property `requires-network` is set; "
        "needs `use_namespaces`. Unset: as `use_namespaces`.",
    )
    action_group: Text = Field(
        default="",
        description="Group, by name or number, that actions are in: the worker's user still, but "
        "its files that only its own group may read, and what a firewall allows that group alone "
        "(the cloud's instance metadata), are out of their reach. Needs CAP_SETGID. Empty: the "
        "worker's.",
    )
    action_limits: ActionLimitsSpec | None = Field(
        default=None, description="Bounds of one action. Unset: none."
    )
    drain_timeout_s: Annotated[Seconds, Zero(15)] = Field(
        default=15,
        description="Seconds that running actions get to finish when the worker stops; what is "
        "left is handed back and runs elsewhere.",
    )


class WorkerSpec(Spec):
    """A worker, under the key that names its kind."""

    local: LocalWorkerSpec = Field(description="Runs actions on this machine.")
