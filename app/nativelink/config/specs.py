"""The root of the configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator

from nativelink.config.fields import (
    EXTENSION,
    Fraction64,
    Items,
    NullIs,
    NullIsEmpty,
    Number,
    Size,
    Spec,
    Text,
    Zero,
)
from nativelink.config.specs_aws import AwsServicesSpec
from nativelink.config.specs_common import SocketAddress
from nativelink.config.specs_schedulers import NamedScheduler
from nativelink.config.specs_servers import ServerSpec
from nativelink.config.specs_stores import NamedStore
from nativelink.config.specs_workers import WorkerSpec

__all__ = [
    "Config",
    "GlobalSpec",
    "HashFunction",
    "MetricsSpec",
    "OriginEventsPublisherSpec",
    "OriginEventsSpec",
    "OtlpSpec",
    "PrometheusSpec",
    "TracingSpec",
]


class OriginEventsPublisherSpec(Spec):
    """Where events go."""

    store: Text = Field(description="Name of the store.")


class OriginEventsSpec(Spec):
    """Records which actions were executed, where, for whom, and what they used, as events."""

    publisher: OriginEventsPublisherSpec = Field(description="Where events go.")
    max_event_queue_size: Annotated[Number, Zero(65_536)] = Field(
        default=65_536,
        description="Events that may wait to be written; a full queue makes new executions wait.",
    )


class HashFunction(StrEnum):
    """Digest functions."""

    SHA256 = "sha256"
    BLAKE3 = "blake3"


class PrometheusSpec(Spec):
    """Metrics to be fetched."""

    listen_address: SocketAddress = Field(
        description="`ADDRESS:PORT` of a listener of its own that serves `/metrics`."
    )


class MetricsSpec(Spec):
    """How metrics leave the process, besides the OTEL_ environment variables."""

    prometheus: PrometheusSpec | None = Field(
        default=None,
        description="A listener for Prometheus. Unset: only `/metrics` of the servers.",
    )


class OtlpSpec(Spec):
    """A collector that speaks OTLP over gRPC."""

    endpoint: Text = Field(description="URL, such as `http://otel-collector:4317`.")


class TracingSpec(Spec):
    """How traces leave the process, besides the OTEL_ environment variables."""

    otlp: OtlpSpec | None = Field(default=None, description="Where to. Unset: OTEL_ variables.")
    sample_rate: Annotated[Fraction64, Field(le=1)] = Field(
        default=1.0, description="Part of the requests that is traced, 0.0 to 1.0."
    )


class GlobalSpec(Spec):
    """What concerns the whole process."""

    max_open_files: Annotated[Number, Zero(24_576)] = Field(
        default=24_576,
        description="Files that stores and workers hold open at the same time; further ones wait. "
        "More than 10, and less than the system's limit (`ulimit -n`).",
    )
    default_digest_hash_function: Annotated[HashFunction, Items, NullIs(HashFunction.SHA256)] = (
        Field(
            default=HashFunction.SHA256,
            description="Digest function of requests that do not name one.",
        )
    )
    default_digest_size_health_check: Annotated[Size, Zero(1024**2)] = Field(
        default=1024**2, description="Bytes of the blob that health checks write and read."
    )
    metrics: Annotated[MetricsSpec, EXTENSION] = Field(
        default=MetricsSpec(), description="How metrics leave the process."
    )
    tracing: Annotated[TracingSpec, EXTENSION] = Field(
        default=TracingSpec(), description="How traces leave the process."
    )
    aws: Annotated[AwsServicesSpec, EXTENSION] | None = Field(
        default=None, description="What the process does because it runs on AWS. Unset: nothing."
    )


class Config(Spec):
    """A whole configuration file."""

    stores: Annotated[tuple[NamedStore, ...], Items] = Field(
        description="Stores, each with the `name` by which others refer to it."
    )
    workers: Annotated[tuple[WorkerSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="Workers that this process runs."
    )
    schedulers: Annotated[tuple[NamedScheduler, ...], Items, NullIsEmpty] = Field(
        default=(), description="Schedulers, each with the `name` by which others refer to it."
    )
    servers: Annotated[tuple[ServerSpec, ...], Items] = Field(
        description="Listeners with the services that they offer."
    )
    experimental_origin_events: OriginEventsSpec | None = Field(
        default=None, description="Record what was executed, as events. Unset: no."
    )
    global_: Annotated[GlobalSpec, NullIs(GlobalSpec())] = Field(
        alias="global", default=GlobalSpec(), description="What concerns the whole process."
    )

    @field_validator("workers")
    @classmethod
    def _name_workers(cls, workers: tuple[WorkerSpec, ...]) -> tuple[WorkerSpec, ...]:
        return tuple(
            worker
            if worker.local.name
            else WorkerSpec(local=worker.local.model_copy(update={"name": f"worker_{index}"}))
            for index, worker in enumerate(workers)
        )

    @field_validator("servers")
    @classmethod
    def _name_servers(cls, servers: tuple[ServerSpec, ...]) -> tuple[ServerSpec, ...]:
        return tuple(
            server if server.name else server.model_copy(update={"name": str(index)})
            for index, server in enumerate(servers)
        )
