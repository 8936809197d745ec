"""The certificate that clients see."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import (
    AcmCertificate,
    AcmCertificateValidation,
    Fn,
    Route53Record,
    TerraformResourceLifecycle,
)
from infra.kit import Kit
from infra.settings import ServerTls

__all__ = ["Certificate"]


class Certificate(Construct):
    """A certificate of ACM, proved by DNS and renewed by AWS; or one that exists.

    Attributes:
        arn: known once it is issued.
        certificate: the one that the kit asked for; None if it exists already.
    """

    def __init__(self, scope: Construct, id_: str, *, kit: Kit, tls: ServerTls) -> None:
        super().__init__(scope, id_)
        self.arn: str
        self.certificate: AcmCertificate | None = None
        if tls.certificate_arn is not None:
            self.arn = tls.certificate_arn
            return
        assert tls.zone_id is not None, "settings_check demands one of the two"
        certificate = AcmCertificate(
            self,
            "certificate",
            domain_name=tls.domain,
            validation_method="DNS",
            key_algorithm="EC_prime256v1",
            tags={"Name": kit.name()},
            lifecycle=TerraformResourceLifecycle(create_before_destroy=True),
        )
        self.certificate = certificate
        option = Fn.element(Fn.tolist(certificate.domain_validation_options.fqn), 0)
        record = Route53Record(
            self,
            "proof",
            zone_id=tls.zone_id,
            name=Fn.lookup_nested(option, ["resource_record_name"]),
            type=Fn.lookup_nested(option, ["resource_record_type"]),
            records=[Fn.lookup_nested(option, ["resource_record_value"])],
            ttl=300,
            allow_overwrite=True,
        )
        self.arn = AcmCertificateValidation(
            self,
            "issued",
            certificate_arn=certificate.arn,
            validation_record_fqdns=[record.fqdn],
        ).certificate_arn
