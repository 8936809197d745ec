"""Valkey in ElastiCache, with one user, who can use the cache and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from constructs import Construct

from infra._cdk import (
    CloudwatchLogGroup,
    DataAwsSecretsmanagerRandomPassword,
    ElasticacheParameterGroup,
    ElasticacheParameterGroupParameter,
    ElasticacheReplicationGroup,
    ElasticacheReplicationGroupLogDeliveryConfiguration,
    ElasticacheSubnetGroup,
    ElasticacheUser,
    ElasticacheUserGroup,
    Fn,
    SecretsmanagerSecret,
    SecretsmanagerSecretVersion,
    TerraformResource,
    TerraformResourceLifecycle,
)
from infra.kit import Kit
from infra.modules.firewall import Firewall
from infra.modules.keys import Keys
from infra.modules.network import Network
from infra.passwords import generations

__all__ = ["PORT", "Redis"]

PORT: Final = 6379
#: What a cache's clients need: no scripts, no other key, nothing that concerns the server.
#: ElastiCache has no CONFIG, and makes no user whose rights name it.
_COMMANDS: Final = (
    "-@all +@connection +@read +set +setex +psetex +setrange +append +expire +pexpire +rename "
    "+unlink +publish +subscribe +psubscribe +info +role"
)
#: An upload is written to `temp-UUID-{KEY}` and renamed.
_ACCESS: Final = {"server": f"on ~cas:* ~ac:* ~temp-* &* {_COMMANDS}"}


@dataclass(frozen=True)
class RedisUser:
    """A user and the secret that holds its password."""

    name: str
    secret: SecretsmanagerSecret


class Redis(Construct):
    """Small blobs and action results, in memory, in two zones or more.

    Passwords are made by Secrets Manager when the region is first deployed. They are in
    Terraform's state, which is encrypted, because the provider can write them no other way.

    Attributes:
        host: of the primary.
        users: by what uses them: `server`.
        replication_group_id: for alarms; None on a laptop.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        network: Network,
        firewall: Firewall,
        keys: Keys,
        log_group: CloudwatchLogGroup,
    ) -> None:
        super().__init__(scope, id_)
        self._kit, self._keys = kit, keys
        settings = kit.settings.redis
        self.users: dict[str, RedisUser] = {}
        accounts = [self._user(name, access) for name, access in _ACCESS.items()]
        self.replication_group_id: str | None = None
        self.host: str
        if kit.local is not None:
            # Machines use the Redis of the laptop.
            self.host, _, port = kit.local.redis.partition(":")
            self.port = int(port)
            return
        subnets = ElasticacheSubnetGroup(
            self,
            "subnets",
            name=kit.name("redis"),
            description="Private subnets",
            subnet_ids=[each.id for each in network.private],
        )
        self.port = PORT
        group = ElasticacheReplicationGroup(
            self,
            "group",
            replication_group_id=kit.name("redis"),
            description=f"Small blobs and action results of {kit.name()}",
            engine="valkey",
            engine_version=settings.engine_version,
            node_type=settings.node_type,
            port=PORT,
            num_cache_clusters=settings.replicas + 1,
            automatic_failover_enabled=settings.replicas > 0,
            multi_az_enabled=settings.replicas > 0,
            transit_encryption_enabled=True,
            transit_encryption_mode="required",
            at_rest_encryption_enabled="true",
            kms_key_id=keys.storage.arn,
            parameter_group_name=self._parameters(settings.engine_version).name,
            subnet_group_name=subnets.name,
            security_group_ids=[firewall.id_of_group],
            user_group_ids=[
                ElasticacheUserGroup(
                    self,
                    "users",
                    user_group_id=kit.name("redis"),
                    engine="valkey",
                    user_ids=[each.user_id for each in accounts],
                ).user_group_id
            ],
            log_delivery_configuration=[
                ElasticacheReplicationGroupLogDeliveryConfiguration(
                    destination=log_group.name,
                    destination_type="cloudwatch-logs",
                    log_format="json",
                    log_type=kind,
                )
                for kind in ("slow-log", "engine-log")
            ],
            # It is a cache, and S3 has everything that is in it.
            snapshot_retention_limit=0,
            maintenance_window="sun:04:00-sun:05:00",
            auto_minor_version_upgrade="true",
            apply_immediately=not kit.protected,
        )
        self.host = group.primary_endpoint_address
        self.replication_group_id = group.replication_group_id

    def _parameters(self, engine_version: str) -> ElasticacheParameterGroup:
        family = f"valkey{engine_version.partition('.')[0]}"
        return ElasticacheParameterGroup(
            self,
            "parameters",
            # Those of another family are others, and there before these can go.
            name=self._kit.name(family),
            family=family,
            description="A cache: the least used goes, and clients are told what went",
            parameter=[
                ElasticacheParameterGroupParameter(name="maxmemory-policy", value="allkeys-lru"),
                ElasticacheParameterGroupParameter(name="notify-keyspace-events", value="Exeg"),
            ],
            lifecycle=TerraformResourceLifecycle(create_before_destroy=True),
        )

    def _user(self, name: str, access: str) -> ElasticacheUser:
        kit = self._kit
        generation = kit.settings.redis.password_generation
        passwords = {
            each: self._password(name, parity, each)
            for parity, each in zip(("even", "odd"), generations(generation), strict=True)
        }
        secret = SecretsmanagerSecret(
            self,
            f"{name}-secret",
            name=kit.path(f"redis-{name}").lstrip("/"),
            description=f"Password of the user {name} in Valkey",
            kms_key_id=self._keys.secrets.arn,
            recovery_window_in_days=7 if kit.protected else 0,
        )
        SecretsmanagerSecretVersion(
            self,
            f"{name}-secret-value",
            secret_id=secret.id,
            secret_string_wo=passwords[generation],
            secret_string_wo_version=generation,
        )
        self.users[name] = RedisUser(name, secret)
        return ElasticacheUser(
            self,
            f"{name}-user",
            user_id=kit.name(name),
            user_name=name,
            engine="valkey",
            access_string=access,
            passwords=[passwords[each] for each in sorted(passwords)],
        )

    def _password(self, name: str, parity: str, generation: int) -> str:
        """One that is made once and kept, until its generation changes."""
        fresh = DataAwsSecretsmanagerRandomPassword(
            self, f"{name}-{parity}-fresh", password_length=48, exclude_punctuation=True
        )
        kept = TerraformResource(
            self,
            f"{name}-{parity}",
            terraform_resource_type="terraform_data",
            lifecycle=TerraformResourceLifecycle(ignore_changes=["input"]),
        )
        kept.add_override("input", Fn.sensitive(fresh.random_password))
        kept.add_override("triggers_replace", generation)
        return kept.interpolation_for_attribute("output").to_string()
