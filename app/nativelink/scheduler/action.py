"""What is to be executed, as the scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nativelink.core.digest import Digest, DigestFunction

__all__ = ["ActionInfo", "ActionKey", "Origin"]


class ActionKey(NamedTuple):
    """The identity of an action: two requests with the same key ask for the same work."""

    instance_name: str
    digest_function: DigestFunction
    digest: Digest


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, from REAPI's RequestMetadata; empty where the client did not say.

    Attributes:
        tool_invocation_id: the build.
        target_id: what is built, for instance `//main:hello`.
        action_mnemonic: the sort of action, for instance `CppCompile`.
        identity: who the client says it is (identity header), or the subject of its certificate.
    """

    tool_invocation_id: str = ""
    target_id: str = ""
    action_mnemonic: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class ActionInfo:
    """An action and how it is to be scheduled (REAPI v2, messages Action and ExecuteRequest).

    Attributes:
        key: its identity.
        properties: platform properties as `(name, value)`, sorted; a name may stand several times.
        priority: REAPI's, but higher is sooner here, as in NativeLink.
        timeout_s: seconds that it may run; None where it did not say.
        skip_cache_lookup: the client wants it executed, not looked up.
        do_not_cache: its result is not to be cached, and it is shared with nobody.
        origin: who asked.
    """

    key: ActionKey
    properties: tuple[tuple[str, str], ...] = ()
    priority: int = 0
    timeout_s: float | None = None
    skip_cache_lookup: bool = False
    do_not_cache: bool = False
    origin: Origin = Origin()

    @property
    def joinable(self) -> bool:
        """Whether several requests for it may share one execution."""
        return not self.skip_cache_lookup and not self.do_not_cache
