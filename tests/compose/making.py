"""What a configuration makes, for tests of what its keys do."""

from __future__ import annotations

import json
from typing import Any

import json5

from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from tests.execution.farm import Json

__all__ = ["made", "served"]


async def made(environment: Environment, **spec: Any) -> Any:
    """The store of a spec."""
    text = json.dumps({"stores": [{"name": "A", **spec}], "servers": []})
    stores = StoreBuilder(Config.model_validate(json5.loads(text)).stores, environment)
    return (await stores.named("A")).store


def served(stores: list[Json], services: Json, **more: Any) -> Config:
    """The configuration of a server on any port."""
    listener = {"http": {"socket_address": "127.0.0.1:0"}}
    servers = [{"listener": listener, "services": services}]
    return Config.model_validate(
        json.loads(json.dumps({"stores": stores, "servers": servers, **more}))
    )
