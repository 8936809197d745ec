"""Machine images: given ones, or built by EC2 Image Builder from the components in `ami/`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from constructs import Construct

from infra._cdk import (
    IamInstanceProfile,
    IamRole,
    IamRolePolicy,
    IamRolePolicyAttachment,
    ImagebuilderComponent,
    ImagebuilderDistributionConfiguration,
    ImagebuilderDistributionConfigurationDistribution,
    ImagebuilderDistributionConfigurationDistributionAmiDistributionConfiguration,
    ImagebuilderImage,
    ImagebuilderImageImageTestsConfiguration,
    ImagebuilderImagePipeline,
    ImagebuilderImagePipelineImageTestsConfiguration,
    ImagebuilderImagePipelineSchedule,
    ImagebuilderImageRecipe,
    ImagebuilderImageRecipeBlockDeviceMapping,
    ImagebuilderImageRecipeBlockDeviceMappingEbs,
    ImagebuilderImageRecipeComponent,
    ImagebuilderImageRecipeComponentParameter,
    ImagebuilderImageTimeouts,
    ImagebuilderInfrastructureConfiguration,
    ImagebuilderInfrastructureConfigurationInstanceMetadataOptions,
    ImagebuilderInfrastructureConfigurationLogging,
    ImagebuilderInfrastructureConfigurationLoggingS3Logs,
    ImagebuilderLifecyclePolicy,
    ImagebuilderLifecyclePolicyPolicyDetail,
    ImagebuilderLifecyclePolicyPolicyDetailAction,
    ImagebuilderLifecyclePolicyPolicyDetailActionIncludeResources,
    ImagebuilderLifecyclePolicyPolicyDetailExclusionRules,
    ImagebuilderLifecyclePolicyPolicyDetailExclusionRulesAmis,
    ImagebuilderLifecyclePolicyPolicyDetailExclusionRulesAmisLastLaunched,
    ImagebuilderLifecyclePolicyPolicyDetailFilter,
    ImagebuilderLifecyclePolicyResourceSelection,
    S3Object,
    SsmParameter,
    Subnet,
    TerraformResourceLifecycle,
)
from infra.kit import Kit
from infra.local import LocalProfile
from infra.modules.buckets import Buckets
from infra.modules.endpoints import Endpoints
from infra.modules.firewall import Firewall
from infra.modules.keys import Keys
from infra.modules.network import Network
from infra.policy import Statement, document, service
from infra.provider import default_tags
from infra.settings import ISA, RegionSettings
from infra.settings_check import isa_of

__all__ = ["Images"]

_COMPONENTS: Final = Path(__file__).parents[2] / "ami" / "components"
#: In the order in which they run: the operating system, our program, and whether it starts.
_ORDER: Final = ("base", "stack", "test")
#: Those that install something out of the bundle.
_INSTALLING: Final = frozenset({"base", "stack"})
#: Image Builder speaks to its machine by Systems Manager's agent, which Debian's images lack.
_AGENT: Final = """#!/bin/bash
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -yq --no-install-recommends ca-certificates curl
curl -sSf --proto '=https' --retry 5 -o /tmp/agent.deb \\
  "https://s3.{region}.amazonaws.com/amazon-ssm-{region}/latest/debian_$(dpkg --print-architecture)/amazon-ssm-agent.deb"
dpkg --install /tmp/agent.deb
rm /tmp/agent.deb
"""
#: Debian 12, as its project publishes it for AWS.
_PARENT: Final = {
    ISA.X86: "/aws/service/debian/release/12/latest/amd64",
    ISA.ARM: "/aws/service/debian/release/12/latest/arm64",
}
_BUILDERS: Final = {
    ISA.X86: ("c6i.large", "m6i.large", "c5.large"),
    ISA.ARM: ("c7g.large", "m7g.large", "c6g.large"),
}
_BUILD_TIMEOUT: Final = "90m"
#: An image from which a machine started within so many months is not deleted.
_USED_MONTHS: Final = 6


def architectures(settings: RegionSettings) -> tuple[ISA, ...]:
    """Those that the region's machines have."""
    types = [settings.cas.instance_type, settings.scheduler.instance_type]
    types += [pool.types[0] for pool in settings.pools]
    return tuple(sorted({isa_of(each) for each in types}))


def _digest(path: Path) -> str:
    """Of the bundle. Before it is made, a plan shows where it would be."""
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


def version_of(settings: RegionSettings) -> str:
    """A version that changes with what is in the image: Image Builder never changes one again.

    Each of the three numbers has 30 bits.
    """
    content = hashlib.sha256(_digest(Path(settings.image.bundle)).encode())
    content.update(_AGENT.encode())
    for name in _ORDER:
        content.update((_COMPONENTS / f"{name}.yaml").read_bytes())
    return f"1.{settings.image.revision}.{int(content.hexdigest()[:7], 16)}"


class Images(Construct):
    """An image of each architecture that the region's machines have.

    A built image is part of the deployment: machines are replaced when the next one is ready. Its
    number in `image.ami_ids` brings an older one back.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        network: Network,
        endpoints: Endpoints,
        keys: Keys,
        buckets: Buckets,
    ) -> None:
        super().__init__(scope, id_)
        self._kit, self._keys, self._buckets = kit, keys, buckets
        self._version = version_of(kit.settings)
        self._ids: dict[ISA, str] = dict(kit.settings.image.ami_ids)
        if not kit.makes("aws_imagebuilder_image"):
            self._ids = dict.fromkeys(ISA, LocalProfile.IMAGE)
        elif not self._ids:
            self._build(network, endpoints)

    def id_for(self, isa: ISA) -> str:
        """The id, or a reference to it."""
        return self._ids[isa]

    def _build(self, network: Network, endpoints: Endpoints) -> None:
        kit = self._kit
        # Neither the resources' own tags nor the provider's reach what Image Builder makes.
        tags = {**default_tags(kit), "Name": kit.name()}
        bundle = self._bundle()
        components = self._components()
        profile, firewall = self._builder(network, endpoints)
        subnet = network.with_addresses(self, "image-builder")
        distribution = ImagebuilderDistributionConfiguration(
            self,
            "distribution",
            name=kit.name("images"),
            distribution=[
                ImagebuilderDistributionConfigurationDistribution(
                    region=kit.region,
                    ami_distribution_configuration=ImagebuilderDistributionConfigurationDistributionAmiDistributionConfiguration(
                        name=f"{kit.name()}-{{{{ imagebuilder:buildDate }}}}",
                        kms_key_id=self._keys.disks.arn,
                        ami_tags=tags,
                    ),
                )
            ],
        )
        for isa in architectures(kit.settings):
            recipe = self._recipe(isa, components, bundle)
            infrastructure = self._infrastructure(isa, subnet, profile, firewall)
            image = ImagebuilderImage(
                self,
                f"{isa}-image",
                image_recipe_arn=recipe.arn,
                infrastructure_configuration_arn=infrastructure.arn,
                distribution_configuration_arn=distribution.arn,
                enhanced_image_metadata_enabled=True,
                image_tests_configuration=ImagebuilderImageImageTestsConfiguration(
                    image_tests_enabled=True, timeout_minutes=60
                ),
                timeouts=ImagebuilderImageTimeouts(create=_BUILD_TIMEOUT),
                tags={"Name": kit.name(isa)},
                lifecycle=TerraformResourceLifecycle(create_before_destroy=True),
            )
            self._ids[isa] = f"${{one({image.fqn}.output_resources[0].amis[*].image)}}"
            SsmParameter(
                self,
                f"{isa}-parameter",
                name=kit.path("image", isa),
                description="The image that machines start from",
                type="SecureString",
                key_id=self._keys.secrets.arn,
                value=self._ids[isa],
            )
            self._rebuild(isa, recipe, infrastructure, distribution)
        self._prune()

    def _bundle(self) -> str:
        """What `make image-bundle` wrote, in the artifacts' bucket; gives its address."""
        kit = self._kit
        path = Path(kit.settings.image.bundle)
        name = f"image/{_digest(path)[:16]}.tar.gz"
        item = S3Object(
            self,
            "bundle",
            bucket=self._buckets.artifacts.bucket.id,
            key=name,
            source=str(path.absolute()),
            kms_key_id=self._keys.storage.arn,
        )
        return f"s3://{item.bucket}/{name}"

    def _components(self) -> list[ImagebuilderComponent]:
        """The YAML documents of `ami/components`."""
        kit = self._kit
        return [
            ImagebuilderComponent(
                self,
                name,
                name=kit.name(name),
                platform="Linux",
                version=self._version,
                description=f"{name}.yaml of the kit",
                data=(_COMPONENTS / f"{name}.yaml").read_text(encoding="utf-8"),
                kms_key_id=self._keys.disks.arn,
                skip_destroy=kit.protected,
                lifecycle=TerraformResourceLifecycle(create_before_destroy=True),
            )
            for name in _ORDER
        ]

    def _recipe(
        self, isa: ISA, components: Sequence[ImagebuilderComponent], bundle: str
    ) -> ImagebuilderImageRecipe:
        kit = self._kit
        return ImagebuilderImageRecipe(
            self,
            f"{isa}-recipe",
            name=kit.name(isa),
            version=self._version,
            parent_image=f"ssm:{_PARENT[isa]}",
            user_data_base64=base64.b64encode(_AGENT.format(region=kit.region).encode()).decode(),
            block_device_mapping=[
                ImagebuilderImageRecipeBlockDeviceMapping(
                    device_name="/dev/xvda",
                    ebs=ImagebuilderImageRecipeBlockDeviceMappingEbs(
                        encrypted="true",
                        kms_key_id=self._keys.disks.arn,
                        volume_type="gp3",
                        volume_size=20,
                        delete_on_termination="true",
                    ),
                )
            ],
            component=[
                ImagebuilderImageRecipeComponent(
                    component_arn=each.arn,
                    parameter=[
                        ImagebuilderImageRecipeComponentParameter(name="Bundle", value=bundle)
                    ]
                    if name in _INSTALLING
                    else None,
                )
                for name, each in zip(_ORDER, components, strict=True)
            ],
            lifecycle=TerraformResourceLifecycle(create_before_destroy=True),
        )

    def _builder(
        self, network: Network, endpoints: Endpoints
    ) -> tuple[IamInstanceProfile, Firewall]:
        """What the machine may do: download from the operating system's archives, mostly."""
        kit = self._kit
        firewall = Firewall(
            self,
            "firewall",
            kit=kit,
            network=network,
            name="image-builder",
            protects="The machine that builds images",
        )
        for port, why in ((443, "Packages and AWS services"), (80, "Packages, which are signed")):
            firewall.connect_to_internet(port, why)
        # Systems Manager's names lead there for every machine of the network.
        firewall.connect_to(endpoints.firewall, 443, "AWS services")
        logs = self._buckets.logs
        role = IamRole(
            self,
            "role",
            name=kit.name("image-builder", kit.region),
            description="The machine that builds images",
            assume_role_policy=document(
                Statement("Machines", ["sts:AssumeRole"], (), principal=service("ec2"))
            ),
        )
        for name in ("AmazonSSMManagedInstanceCore", "EC2InstanceProfileForImageBuilder"):
            IamRolePolicyAttachment(
                self, name, role=role.name, policy_arn=f"arn:aws:iam::aws:policy/{name}"
            )
        IamRolePolicy(
            self,
            "policy",
            name="image-builder",
            role=role.id,
            policy=document(
                Statement("Bundle", ["s3:GetObject"], [self._buckets.artifacts.objects("image/")]),
                Statement("Log", ["s3:PutObject"], [logs.objects("image-builder/")]),
                Statement(
                    "BundleKey",
                    ["kms:Decrypt"],
                    [self._keys.storage.arn],
                    conditions={
                        "StringEquals": {"kms:ViaService": f"s3.{kit.region}.amazonaws.com"}
                    },
                ),
            ),
        )
        profile = IamInstanceProfile(
            self, "profile", name=kit.name("image-builder", kit.region), role=role.name
        )
        return profile, firewall

    def _infrastructure(
        self, isa: ISA, subnet: Subnet, profile: IamInstanceProfile, firewall: Firewall
    ) -> ImagebuilderInfrastructureConfiguration:
        kit, logs = self._kit, self._buckets.logs
        return ImagebuilderInfrastructureConfiguration(
            self,
            f"{isa}-infrastructure",
            name=kit.name("images", isa),
            instance_profile_name=profile.name,
            instance_types=list(_BUILDERS[isa]),
            subnet_id=subnet.id,
            security_group_ids=[firewall.id_of_group],
            terminate_instance_on_failure=True,
            instance_metadata_options=ImagebuilderInfrastructureConfigurationInstanceMetadataOptions(
                http_tokens="required", http_put_response_hop_limit=1
            ),
            logging=ImagebuilderInfrastructureConfigurationLogging(
                s3_logs=ImagebuilderInfrastructureConfigurationLoggingS3Logs(
                    s3_bucket_name=logs.bucket.id, s3_key_prefix="image-builder"
                )
            ),
            resource_tags={**default_tags(kit), "Name": kit.name("image-builder")},
        )

    def _rebuild(
        self,
        isa: ISA,
        recipe: ImagebuilderImageRecipe,
        infrastructure: ImagebuilderInfrastructureConfiguration,
        distribution: ImagebuilderDistributionConfiguration,
    ) -> None:
        """The same image with the operating system's updates, if there are any."""
        when = self._kit.settings.image.rebuild
        if when is None:
            return
        ImagebuilderImagePipeline(
            self,
            f"{isa}-pipeline",
            name=self._kit.name(isa),
            image_recipe_arn=recipe.arn,
            infrastructure_configuration_arn=infrastructure.arn,
            distribution_configuration_arn=distribution.arn,
            schedule=ImagebuilderImagePipelineSchedule(
                schedule_expression=when,
                pipeline_execution_start_condition="EXPRESSION_MATCH_AND_DEPENDENCY_UPDATES_AVAILABLE",
            ),
            image_tests_configuration=ImagebuilderImagePipelineImageTestsConfiguration(
                image_tests_enabled=True, timeout_minutes=60
            ),
        )

    def _prune(self) -> None:
        """Old images and their snapshots go, but none that machines still start from.

        Without its image a template starts nothing, and no plan tells.
        """
        kit = self._kit
        role = IamRole(
            self,
            "prune-role",
            name=kit.name("image-pruner", kit.region),
            description="Deletes old images",
            assume_role_policy=document(
                Statement(
                    "ImageBuilder",
                    ["sts:AssumeRole"],
                    (),
                    principal=service("imagebuilder"),
                    conditions={"StringEquals": {"aws:SourceAccount": kit.account}},
                )
            ),
        )
        IamRolePolicyAttachment(
            self,
            "prune-policy",
            role=role.name,
            policy_arn="arn:aws:iam::aws:policy/service-role/EC2ImageBuilderLifecycleExecutionPolicy",
        )
        ImagebuilderLifecyclePolicy(
            self,
            "prune",
            name=kit.name("images"),
            execution_role=role.arn,
            resource_type="AMI_IMAGE",
            policy_detail=[
                ImagebuilderLifecyclePolicyPolicyDetail(
                    action=[
                        ImagebuilderLifecyclePolicyPolicyDetailAction(
                            type="DELETE",
                            include_resources=[
                                ImagebuilderLifecyclePolicyPolicyDetailActionIncludeResources(
                                    amis=True, snapshots=True
                                )
                            ],
                        )
                    ],
                    exclusion_rules=[
                        ImagebuilderLifecyclePolicyPolicyDetailExclusionRules(
                            amis=[
                                ImagebuilderLifecyclePolicyPolicyDetailExclusionRulesAmis(
                                    is_public=False,
                                    last_launched=[
                                        ImagebuilderLifecyclePolicyPolicyDetailExclusionRulesAmisLastLaunched(
                                            unit="MONTHS", value=_USED_MONTHS
                                        )
                                    ],
                                )
                            ]
                        )
                    ],
                    filter=[
                        ImagebuilderLifecyclePolicyPolicyDetailFilter(
                            type="COUNT", value=kit.settings.image.keep
                        )
                    ],
                )
            ],
            resource_selection=[
                ImagebuilderLifecyclePolicyResourceSelection(
                    tag_map={"NativeLinkRegion": kit.settings.name}
                )
            ],
        )
