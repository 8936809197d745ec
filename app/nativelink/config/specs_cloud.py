"""Object stores of the cloud providers: `experimental_cloud_object_store` and its providers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pydantic import Discriminator, Field

from nativelink.config.fields import (
    EXTENSION,
    SECRET,
    Flag,
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
from nativelink.config.specs_common import RetrySpec

__all__ = [
    "AwsSpec",
    "AzureSpec",
    "CloudObjectSpec",
    "GcsSpec",
    "ObjectStoreSpec",
    "OciSpec",
    "OntapExistenceCacheSpec",
    "OntapS3Spec",
    "OntapSpec",
    "R2Spec",
]

_BUCKET: Final = "The bucket that holds the objects. It must exist."


class ObjectStoreSpec(Spec):
    """What every object store has. It never deletes an object: set up a lifecycle rule."""

    KIND: ClassVar[str] = "experimental_cloud_object_store"

    key_prefix: Verbatim | None = Field(
        default=None,
        description="Put before every object's key, so that stores can share a bucket. "
        "Unset: nothing.",
    )
    retry: RetrySpec = Field(
        default=RetrySpec(), description="Tries of a failing request to the provider."
    )
    consider_expired_after_s: Seconds = Field(
        default=0,
        description=(
            "Treat objects whose last change is older than this many seconds as absent, so that "
            "they are uploaded again before a lifecycle rule deletes them. Choose it clearly "
            "shorter than the rule's age. 0: objects do not expire."
        ),
    )
    max_retry_buffer_per_request: Annotated[Size, NullIs(5 * 1024**2)] = Field(
        default=5 * 1024**2,
        description="Bytes of one upload kept in memory so that a failed request can be sent "
        "again. 0: a failed request fails the upload.",
    )
    multipart_max_concurrent_uploads: Annotated[Number, Zero(10), NullIs(10)] = Field(
        default=10, description="Parts of one multipart upload that travel at the same time."
    )
    insecure_allow_http: Flag = Field(
        default=False, description="Allow endpoints without TLS. For tests on one machine only."
    )
    disable_http2: Flag = Field(default=False, description="Speak only HTTP/1.1 with the provider.")
    max_concurrent_requests: Annotated[Number, EXTENSION] = Field(
        default=0,
        description="Requests of this store in flight at the same time; further ones wait. "
        "Uploads in parts, which wait for who sends them, are counted apart, as many. "
        "0: the store's own bound.",
    )
    refresh_after_s: Annotated[Seconds, EXTENSION] = Field(
        default=0,
        description="An object that is read or found and whose last change is older than this "
        "many seconds is copied onto itself, so that a lifecycle rule by age deletes only what "
        "nobody uses. Choose about half of the rule's age, and less than "
        "`consider_expired_after_s`. 0: never.",
    )


class AwsSpec(ObjectStoreSpec):
    """Amazon S3. Credentials come from the usual AWS chain."""

    provider: Literal["aws"] = Field(description="Selects Amazon S3.")
    region: Annotated[Text, Field(min_length=1)] = Field(
        description="The bucket's AWS region, such as `eu-central-1`."
    )
    bucket: Annotated[Text, Field(min_length=1)] = Field(description=_BUCKET)
    endpoint: Annotated[Text, EXTENSION] | None = Field(
        default=None,
        description="URL of another service that speaks S3, or of a VPC endpoint. Unset: "
        "`AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, which may be of plain `http`, else Amazon's "
        "in the region.",
    )
    virtual_hosted_style: Annotated[Flag, EXTENSION] = Field(
        default=False,
        description="With an endpoint: put the bucket's name before the host's, instead of at "
        "the beginning of the path. Amazon's own endpoints are addressed so in any case.",
    )


class GcsSpec(ObjectStoreSpec):
    """Google Cloud Storage. Credentials are the application default ones."""

    provider: Literal["gcs"] = Field(description="Selects Google Cloud Storage.")
    bucket: Annotated[Text, Field(min_length=1)] = Field(description=_BUCKET)
    resumable_chunk_size: Annotated[Size, Zero(2 * 1024**2), NullIs(2 * 1024**2)] = Field(
        default=2 * 1024**2,
        description="Bytes sent per request of a large upload; 5 MiB at least, Google's least.",
    )
    authentication_required: Flag = Field(
        default=False,
        description="Refuse to start without credentials instead of going on anonymously.",
    )
    connection_timeout_s: Annotated[Seconds, Zero(3)] = Field(
        default=3, description="Seconds until an attempt to connect is given up."
    )
    read_timeout_s: Annotated[Seconds, Zero(3)] = Field(
        default=3, description="Seconds that a response may make no progress."
    )


class AzureSpec(ObjectStoreSpec):
    """Azure Blob Storage."""

    provider: Literal["azure"] = Field(description="Selects Azure Blob Storage.")
    account_name: Annotated[Text, Field(min_length=1)] = Field(description="The storage account.")
    container: Annotated[Text, Field(min_length=1)] = Field(
        description="The container in the account."
    )
    endpoint: Text | None = Field(
        default=None,
        description="URL of the blob service, for emulators and private clouds. Unset: the "
        "account's public address.",
    )
    sas_url: Annotated[Text, SECRET] | None = Field(
        default=None,
        description="A URL with a shared access signature, used instead of other credentials.",
    )


class OntapS3Spec(ObjectStoreSpec):
    """The address of a NetApp ONTAP S3 bucket. Credentials come from the AWS_ variables."""

    #: By itself no store kind: `ontap_s3_existence_cache` has it as its backend.
    KIND: ClassVar[str] = ""

    endpoint: Text = Field(description="URL of the S3 service, such as `https://ontap:443`.")
    vserver_name: Text = Field(description="The storage virtual machine that owns the bucket.")
    bucket: Text = Field(description=_BUCKET)
    root_certificates: PathText | None = Field(
        default=None,
        description="PEM file with the authorities that vouch for the endpoint. Unset: those of "
        "the operating system.",
    )
    max_retry_buffer_per_request: Annotated[Size, NullIs(20 * 1024**2)] = Field(
        default=20 * 1024**2,
        description="Bytes of one upload kept in memory so that a failed request can be sent "
        "again. 0: a failed request fails the upload.",
    )


class OntapSpec(OntapS3Spec):
    """NetApp ONTAP S3."""

    KIND: ClassVar[str] = ObjectStoreSpec.KIND

    provider: Literal["ontap"] = Field(description="Selects NetApp ONTAP S3.")


class R2Spec(ObjectStoreSpec):
    """Cloudflare R2."""

    provider: Literal["r2"] = Field(description="Selects Cloudflare R2.")
    account_id: Annotated[Text, Field(min_length=1)] = Field(description="The Cloudflare account.")
    bucket: Annotated[Text, Field(min_length=1)] = Field(description=_BUCKET)
    access_key_id: Text | None = Field(
        default=None, description="Access key. Unset: the AWS_ variables."
    )
    secret_access_key: Annotated[Text, SECRET] | None = Field(
        default=None, description="Secret of the access key. Unset: the AWS_ variables."
    )


class OciSpec(ObjectStoreSpec):
    """Oracle Cloud object storage."""

    provider: Literal["oci"] = Field(description="Selects Oracle Cloud object storage.")
    namespace: Annotated[Text, Field(min_length=1)] = Field(
        description="The tenancy's object storage namespace."
    )
    region: Annotated[Text, Field(min_length=1)] = Field(
        description="The region, such as `eu-frankfurt-1`."
    )
    bucket: Annotated[Text, Field(min_length=1)] = Field(description=_BUCKET)
    access_key_id: Text | None = Field(
        default=None, description="Access key. Unset: the AWS_ variables."
    )
    secret_access_key: Annotated[Text, SECRET] | None = Field(
        default=None, description="Secret of the access key. Unset: the AWS_ variables."
    )


CloudObjectSpec: TypeAlias = Annotated[
    AwsSpec | GcsSpec | AzureSpec | OntapSpec | R2Spec | OciSpec, Discriminator("provider")
]


class OntapExistenceCacheSpec(Spec):
    """Remembers on disk which objects of an ONTAP bucket exist."""

    KIND: ClassVar[str] = "ontap_s3_existence_cache"

    index_path: PathText = Field(description="File in which the index survives a restart.")
    sync_interval_seconds: Seconds = Field(
        description="Seconds between comparisons of the index with the bucket."
    )
    backend: OntapS3Spec = Field(description="The bucket.")
