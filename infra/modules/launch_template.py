"""How machines start: the only way to make a launch template."""

from __future__ import annotations

import re
from typing import Final

from constructs import Construct

from infra._cdk import (
    Fn,
    LaunchTemplate,
    LaunchTemplateBlockDeviceMappings,
    LaunchTemplateBlockDeviceMappingsEbs,
    LaunchTemplateIamInstanceProfile,
    LaunchTemplateMetadataOptions,
    LaunchTemplateMonitoring,
    LaunchTemplateNetworkInterfaces,
    LaunchTemplateTagSpecifications,
)
from infra.kit import Kit
from infra.modules.firewall import Firewall
from infra.modules.keys import Keys
from infra.modules.roles import MachineRole
from infra.provider import default_tags

__all__ = ["Machine"]


class Machine(Construct):
    """A launch template: encrypted disks, no public address, metadata by token only.

    Metadata answers travel one hop: a program behind another network namespace, as actions are,
    gets none.

    Attributes:
        template: the resource.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        name: str,
        image_id: str,
        instance_type: str | None,
        disk_gb: int,
        firewall: Firewall,
        role: MachineRole,
        keys: Keys,
        user_data: str,
    ) -> None:
        """Makes the template.

        Args:
            instance_type: None where an auto scaling group chooses.
        """
        super().__init__(scope, id_)
        # The provider's own tags do not reach what is launched.
        tags = {**default_tags(kit), "Name": name}
        self.template = LaunchTemplate(
            self,
            "template",
            name=name,
            update_default_version=True,
            image_id=image_id,
            instance_type=instance_type,
            ebs_optimized="true",
            instance_initiated_shutdown_behavior="terminate",
            user_data=_encoded(user_data),
            iam_instance_profile=LaunchTemplateIamInstanceProfile(arn=role.profile.arn),
            monitoring=LaunchTemplateMonitoring(enabled=True),
            metadata_options=LaunchTemplateMetadataOptions(
                http_endpoint="enabled",
                http_tokens="required",
                http_put_response_hop_limit=1,
                # Nothing reads them, and with them no machine starts that has a tag with a space.
                instance_metadata_tags="disabled",
            ),
            network_interfaces=[
                LaunchTemplateNetworkInterfaces(
                    associate_public_ip_address="false",
                    delete_on_termination="true",
                    security_groups=[firewall.id_of_group],
                )
            ],
            block_device_mappings=[
                LaunchTemplateBlockDeviceMappings(
                    device_name="/dev/xvda",
                    ebs=LaunchTemplateBlockDeviceMappingsEbs(
                        encrypted="true",
                        kms_key_id=keys.disks.arn,
                        volume_type="gp3",
                        volume_size=disk_gb,
                        throughput=250,
                        iops=3000,
                        delete_on_termination="true",
                    ),
                )
            ],
            tag_specifications=[
                LaunchTemplateTagSpecifications(resource_type=each, tags=tags)
                for each in ("instance", "volume", "network-interface")
            ],
            tags={"Name": name},
        )


#: How CDKTF writes a reference into a text before it is resolved.
_TOKEN: Final = re.compile(r"(\$\{TfToken\[[^\]]+\]\})")


def _encoded(text: str) -> str:
    """An expression that encodes the text when its references are known.

    Quotes have to be escaped, and CDKTF does that only for texts without references.
    """
    parts = [part for part in _TOKEN.split(text) if part]
    pieces = [part if _TOKEN.fullmatch(part) else Fn.raw_string(part) for part in parts]
    encoded: str = Fn.base64encode(Fn.join("", pieces))
    return encoded
