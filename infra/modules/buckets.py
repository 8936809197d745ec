"""Buckets: the only way to make one, and the ones that a region has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from constructs import Construct

from infra import retention
from infra._cdk import (
    KmsKey,
    S3Bucket,
    S3BucketLifecycleConfiguration,
    S3BucketLifecycleConfigurationRule,
    S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload,
    S3BucketLifecycleConfigurationRuleExpiration,
    S3BucketLifecycleConfigurationRuleFilter,
    S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration,
    S3BucketLifecycleConfigurationRuleTransition,
    S3BucketLoggingA,
    S3BucketLoggingTargetObjectKeyFormat,
    S3BucketLoggingTargetObjectKeyFormatPartitionedPrefix,
    S3BucketMetric,
    S3BucketOwnershipControls,
    S3BucketOwnershipControlsRule,
    S3BucketPolicy,
    S3BucketPublicAccessBlock,
    S3BucketServerSideEncryptionConfigurationA,
    S3BucketServerSideEncryptionConfigurationRuleA,
    S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA,
    S3BucketVersioningA,
    S3BucketVersioningVersioningConfiguration,
)
from infra.kit import Kit
from infra.modules.keys import Keys, kept
from infra.policy import ANYBODY, Statement, document, require_tls, service
from infra.retention import Retention

__all__ = ["ACCESS_PREFIX", "AC_PREFIX", "CAS_PREFIX", "INDEX_PREFIX", "Buckets", "SecureBucket"]

#: What keys of each kind of object begin with; the roles' configuration files say the same.
CAS_PREFIX: Final = "cas/"
INDEX_PREFIX: Final = "index/"
AC_PREFIX: Final = "ac/"
#: Of access logs; what follows is made of the account, region and name of the bucket, and the date.
ACCESS_PREFIX: Final = "access/"
#: Days that a version which was overwritten or deleted can still be brought back.
_UNDO_DAYS: Final = 14


#: What a request to write says of encryption.
_HOW: Final = "s3:x-amz-server-side-encryption"
_KEY: Final = "s3:x-amz-server-side-encryption-aws-kms-key-id"


def _require_key(objects: str, key: str) -> list[Statement]:
    """Nobody writes with another key than the bucket's own.

    S3 decides before it adds the bucket's own encryption to a request that names none, and a
    negated condition, with IfExists or without, is true of what is not there: only what a request
    does name is refused.
    """

    def refused(sid: str, conditions: Mapping[str, Mapping[str, str]]) -> Statement:
        return Statement(
            sid,
            ["s3:PutObject"],
            [objects],
            principal=ANYBODY,
            effect="Deny",
            conditions=conditions,
        )

    return [
        refused("NoOtherKey", {"Null": {_KEY: "false"}, "StringNotEquals": {_KEY: key}}),
        # Without a key's name it would be S3's own, or the account's for S3.
        refused("NoOtherEncryption", {"Null": {_HOW: "false", _KEY: "true"}}),
    ]


@dataclass(frozen=True)
class _Aging:
    """What happens to a bucket's objects over time."""

    transitions: tuple[retention.Transition, ...] = ()
    expire_days: int | None = None


class SecureBucket(Construct):
    """A bucket that is private, encrypted, reached by TLS only, and never grows for ever.

    Attributes:
        bucket: the resource.
        arn: its ARN.
        policy: what writes to the bucket from outside waits for.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        name: str,
        key: KmsKey | None,
        versioned: bool,
        logs: SecureBucket | None,
        aging: Retention | int | None = None,
        statements: Sequence[Statement] = (),
        metrics: bool = False,
    ) -> None:
        """Makes the bucket.

        Args:
            key: encrypts the objects; None for AWS' key, where a service can write no other.
            logs: gets the access log; None for the bucket of logs itself.
            aging: how long objects live, or days; None keeps them.
            statements: added to the bucket's policy.
            metrics: count and time requests (charged).
        """
        super().__init__(scope, id_)
        self.bucket = S3Bucket(
            self,
            "bucket",
            bucket=name,
            force_destroy=not kit.protected,
            tags={"Name": name},
            lifecycle=kept(kit),
        )
        self.arn = self.bucket.arn
        self.name = name
        self._close(key, statements)
        self._encrypt(key)
        S3BucketVersioningA(
            self,
            "versioning",
            bucket=self.bucket.id,
            versioning_configuration=S3BucketVersioningVersioningConfiguration(
                status="Enabled" if versioned else "Suspended"
            ),
        )
        if logs is not None:
            S3BucketLoggingA(
                self,
                "access-log",
                bucket=self.bucket.id,
                target_bucket=logs.bucket.id,
                target_prefix=ACCESS_PREFIX,
                target_object_key_format=S3BucketLoggingTargetObjectKeyFormat(
                    partitioned_prefix=S3BucketLoggingTargetObjectKeyFormatPartitionedPrefix(
                        partition_date_source="EventTime"
                    )
                ),
                depends_on=[logs.policy],
            )
        self._age(kit, aging, versioned)
        if metrics and kit.makes("aws_s3_bucket_metric"):
            S3BucketMetric(self, "metric", bucket=self.bucket.id, name="EntireBucket")

    def objects(self, prefix: str = "") -> str:
        """ARN of the objects whose keys begin with `prefix`."""
        return f"{self.arn}/{prefix}*"

    def _close(self, key: KmsKey | None, statements: Sequence[Statement]) -> None:
        block = S3BucketPublicAccessBlock(
            self,
            "private",
            bucket=self.bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
        )
        S3BucketOwnershipControls(
            self,
            "owner",
            bucket=self.bucket.id,
            rule=S3BucketOwnershipControlsRule(object_ownership="BucketOwnerEnforced"),
        )
        everything = [self.arn, self.objects()]
        rules = [require_tls(*everything)]
        if key is not None:
            rules += _require_key(self.objects(), key.arn)
        self.policy = S3BucketPolicy(
            self,
            "policy",
            bucket=self.bucket.id,
            policy=document(*rules, *statements),
            depends_on=[block],
        )

    def _encrypt(self, key: KmsKey | None) -> None:
        default = S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA(
            sse_algorithm="aws:kms" if key else "AES256",
            kms_master_key_id=key.arn if key else None,
        )
        S3BucketServerSideEncryptionConfigurationA(
            self,
            "encryption",
            bucket=self.bucket.id,
            rule=[
                S3BucketServerSideEncryptionConfigurationRuleA(
                    apply_server_side_encryption_by_default=default,
                    bucket_key_enabled=key is not None or None,
                )
            ],
        )

    def _age(self, kit: Kit, aging: Retention | int | None, versioned: bool) -> None:
        ages = _Aging()
        if isinstance(aging, Retention):
            ages = _Aging(aging.transitions, aging.expire_days)
        elif aging is not None:
            ages = _Aging(expire_days=aging)
        S3BucketLifecycleConfiguration(
            self,
            "lifecycle",
            bucket=self.bucket.id,
            rule=[
                S3BucketLifecycleConfigurationRule(
                    id="age",
                    status="Enabled",
                    filter=[S3BucketLifecycleConfigurationRuleFilter(prefix="")],
                    transition=[
                        S3BucketLifecycleConfigurationRuleTransition(
                            days=each.days, storage_class=each.storage_class
                        )
                        for each in ages.transitions
                    ],
                    expiration=None
                    if ages.expire_days is None
                    else [S3BucketLifecycleConfigurationRuleExpiration(days=ages.expire_days)],
                    noncurrent_version_expiration=[
                        S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration(
                            noncurrent_days=_UNDO_DAYS
                        )
                    ]
                    if versioned
                    else None,
                    abort_incomplete_multipart_upload=[
                        S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload(
                            days_after_initiation=kit.settings.storage.abort_uploads_after_days
                        )
                    ],
                )
            ],
        )


class Buckets(Construct):
    """A region's buckets.

    Attributes:
        cas: blobs. Not versioned: a blob's name is its hash, so there is only one version.
        index: what is small and points at blobs.
        ac: action results. Versioned: a wrong one can be traced and brought back.
        logs: access and flow logs.
        artifacts: what images are made of.
    """

    def __init__(self, scope: Construct, id_: str, *, kit: Kit, keys: Keys) -> None:
        super().__init__(scope, id_)
        storage, metrics = kit.settings.storage, kit.settings.alarms.paid_metrics
        blobs, results = retention.of_cas(storage), retention.of_ac(storage)
        self.logs = self._logs(kit)

        def bucket(
            purpose: str, *, versioned: bool, aging: Retention | None, metrics: bool
        ) -> SecureBucket:
            return SecureBucket(
                self,
                purpose,
                kit=kit,
                name=kit.bucket(purpose),
                key=keys.storage,
                versioned=versioned,
                logs=self.logs,
                aging=aging,
                metrics=metrics,
            )

        self.cas = bucket("cas", versioned=False, aging=blobs, metrics=metrics)
        self.index = bucket("index", versioned=True, aging=blobs, metrics=metrics)
        self.ac = bucket("ac", versioned=True, aging=results, metrics=metrics)
        self.artifacts = bucket("artifacts", versioned=True, aging=None, metrics=False)

    @property
    def all(self) -> list[SecureBucket]:
        """Every one of them."""
        return [self.cas, self.index, self.ac, self.artifacts, self.logs]

    def _logs(self, kit: Kit) -> SecureBucket:
        """S3, VPC and load balancers write here; none of them can use a key of ours."""
        name = kit.bucket("logs")
        arn = f"arn:aws:s3:::{name}"
        from_here = {"StringEquals": {"aws:SourceAccount": kit.account}}
        return SecureBucket(
            self,
            "logs",
            kit=kit,
            name=name,
            key=None,
            versioned=False,
            logs=None,
            aging=kit.settings.logs.audit_days,
            statements=[
                Statement(
                    "AccessLogs",
                    ["s3:PutObject"],
                    [f"{arn}/{ACCESS_PREFIX}*"],
                    principal=service("logging.s3"),
                    conditions=from_here,
                ),
                Statement(
                    "FlowAndBalancerLogs",
                    ["s3:PutObject"],
                    [
                        f"{arn}/AWSLogs/{kit.account}/*",
                        f"{arn}/balancer/AWSLogs/{kit.account}/*",
                    ],
                    principal=service("delivery.logs"),
                    conditions=from_here,
                ),
                Statement(
                    "FlowAndBalancerLogsAcl",
                    ["s3:GetBucketAcl", "s3:ListBucket"],
                    [arn],
                    principal=service("delivery.logs"),
                    conditions=from_here,
                ),
            ],
        )
