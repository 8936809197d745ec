"""No kind of store is forgotten: each has an entry in the contract suite."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args

import nativelink.stores
from nativelink.config.specs_stores import StoreSpec
from nativelink.stores.store import Store
from nativelink.testing.store_contract import (
    StoreBasics,
)
from tests.contract import test_fast_slow, test_grpc, test_joins, test_leaves, test_wrappers

_SUITES = (test_fast_slow, test_grpc, test_joins, test_leaves, test_wrappers)


def _is_store(value: object) -> bool:
    return inspect.isclass(value) and all(
        inspect.iscoroutinefunction(getattr(value, name, None)) for name in ("has", "get", "put")
    )


def _kinds() -> Iterator[type[Any]]:
    """Every class of the package that has the three methods of a store."""
    for found in pkgutil.walk_packages(nativelink.stores.__path__, "nativelink.stores."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if _is_store(value) and value.__module__ == module.__name__ and value is not Store:
                yield value


def _tested() -> set[str]:
    return {
        suite.kind.__name__
        for module in _SUITES
        for suite in vars(module).values()
        if inspect.isclass(suite) and issubclass(suite, StoreBasics)
        if suite.kind is not None and suite.__module__ == module.__name__
    }


def test_every_kind_of_store_has_an_entry_in_the_contract_suite():
    assert {kind.__name__ for kind in _kinds()} - _tested() == set()


def test_every_store_that_can_be_configured_and_started_has_an_entry_too():
    union, *_ = get_args(StoreSpec.__value__)
    configurable = {member.__metadata__[-1].tag for member in get_args(union)}
    assert {"memory", "ref_store", "redis_store"} < configurable
    # A ref_store is the store that it names: test_compositions.py.
    names = configurable - {"ref_store"}
    names = names - {"grpc", "experimental_cloud_object_store"}
    names |= {"grpc_cas", "grpc_ac", "cloud_object"}
    for kind in names:
        assert kind.removeprefix("experimental_").removesuffix("_store").replace("_", "") in {
            name.lower().removesuffix("store") for name in _tested()
        }, kind
