"""Everything of CDK for Terraform that the kit uses: the only module that names its packages.

CDKTF was archived on 2025-12-10; its successor is CDK Terrain (`cdktn`). `CDK_FLAVOUR=cdktn` runs
the same code on the successor's library, with the same provider's constructs; the tests compare
what both synthesize. Only resources that exist alike in the AWS providers 5.100 and 6 are used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")
os.environ.setdefault("JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION", "1")

FLAVOUR = os.environ.get("CDK_FLAVOUR", "cdktf")

if TYPE_CHECKING:
    from cdktf import (
        App as App,
    )
    from cdktf import (
        Fn as Fn,
    )
    from cdktf import (
        LocalBackend as LocalBackend,
    )
    from cdktf import (
        S3Backend as S3Backend,
    )
    from cdktf import (
        TerraformOutput as TerraformOutput,
    )
    from cdktf import (
        TerraformResource as TerraformResource,
    )
    from cdktf import (
        TerraformResourceLifecycle as TerraformResourceLifecycle,
    )
    from cdktf import (
        TerraformStack as TerraformStack,
    )
else:
    _core = importlib.import_module(FLAVOUR)
    App = _core.App
    Fn = _core.Fn
    LocalBackend = _core.LocalBackend
    S3Backend = _core.S3Backend
    TerraformResource = _core.TerraformResource
    TerraformOutput = _core.TerraformOutput
    TerraformResourceLifecycle = _core.TerraformResourceLifecycle
    TerraformStack = _core.TerraformStack

from cdktf_cdktf_provider_aws.acm_certificate import (
    AcmCertificate as AcmCertificate,
)
from cdktf_cdktf_provider_aws.acm_certificate_validation import (
    AcmCertificateValidation as AcmCertificateValidation,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroup as AutoscalingGroup,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupInstanceMaintenancePolicy as AutoscalingGroupInstanceMaintenancePolicy,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupInstanceRefresh as AutoscalingGroupInstanceRefresh,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupInstanceRefreshPreferences as AutoscalingGroupInstanceRefreshPreferences,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupLaunchTemplate as AutoscalingGroupLaunchTemplate,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupMixedInstancesPolicy as AutoscalingGroupMixedInstancesPolicy,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupMixedInstancesPolicyInstancesDistribution as AutoscalingGroupMixedInstancesPolicyInstancesDistribution,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupMixedInstancesPolicyLaunchTemplate as AutoscalingGroupMixedInstancesPolicyLaunchTemplate,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupMixedInstancesPolicyLaunchTemplateLaunchTemplateSpecification as AutoscalingGroupMixedInstancesPolicyLaunchTemplateLaunchTemplateSpecification,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupMixedInstancesPolicyLaunchTemplateOverride as AutoscalingGroupMixedInstancesPolicyLaunchTemplateOverride,
)
from cdktf_cdktf_provider_aws.autoscaling_group import (
    AutoscalingGroupTag as AutoscalingGroupTag,
)
from cdktf_cdktf_provider_aws.autoscaling_lifecycle_hook import (
    AutoscalingLifecycleHook as AutoscalingLifecycleHook,
)
from cdktf_cdktf_provider_aws.autoscaling_notification import (
    AutoscalingNotification as AutoscalingNotification,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicy as AutoscalingPolicy,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicyStepAdjustment as AutoscalingPolicyStepAdjustment,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicyTargetTrackingConfiguration as AutoscalingPolicyTargetTrackingConfiguration,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecification as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecification,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetrics as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetrics,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStat as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStat,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetric as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetric,
)
from cdktf_cdktf_provider_aws.autoscaling_policy import (
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetricDimensions as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetricDimensions,
)
from cdktf_cdktf_provider_aws.budgets_budget import (
    BudgetsBudget as BudgetsBudget,
)
from cdktf_cdktf_provider_aws.budgets_budget import (
    BudgetsBudgetCostFilter as BudgetsBudgetCostFilter,
)
from cdktf_cdktf_provider_aws.budgets_budget import (
    BudgetsBudgetNotification as BudgetsBudgetNotification,
)
from cdktf_cdktf_provider_aws.cloudwatch_composite_alarm import (
    CloudwatchCompositeAlarm as CloudwatchCompositeAlarm,
)
from cdktf_cdktf_provider_aws.cloudwatch_dashboard import (
    CloudwatchDashboard as CloudwatchDashboard,
)
from cdktf_cdktf_provider_aws.cloudwatch_event_rule import (
    CloudwatchEventRule as CloudwatchEventRule,
)
from cdktf_cdktf_provider_aws.cloudwatch_event_target import (
    CloudwatchEventTarget as CloudwatchEventTarget,
)
from cdktf_cdktf_provider_aws.cloudwatch_event_target import (
    CloudwatchEventTargetDeadLetterConfig as CloudwatchEventTargetDeadLetterConfig,
)
from cdktf_cdktf_provider_aws.cloudwatch_log_group import (
    CloudwatchLogGroup as CloudwatchLogGroup,
)
from cdktf_cdktf_provider_aws.cloudwatch_metric_alarm import (
    CloudwatchMetricAlarm as CloudwatchMetricAlarm,
)
from cdktf_cdktf_provider_aws.cloudwatch_metric_alarm import (
    CloudwatchMetricAlarmMetricQuery as CloudwatchMetricAlarmMetricQuery,
)
from cdktf_cdktf_provider_aws.cloudwatch_metric_alarm import (
    CloudwatchMetricAlarmMetricQueryMetric as CloudwatchMetricAlarmMetricQueryMetric,
)
from cdktf_cdktf_provider_aws.cloudwatch_query_definition import (
    CloudwatchQueryDefinition as CloudwatchQueryDefinition,
)
from cdktf_cdktf_provider_aws.data_aws_availability_zones import (
    DataAwsAvailabilityZones as DataAwsAvailabilityZones,
)
from cdktf_cdktf_provider_aws.data_aws_secretsmanager_random_password import (
    DataAwsSecretsmanagerRandomPassword as DataAwsSecretsmanagerRandomPassword,
)
from cdktf_cdktf_provider_aws.default_route_table import (
    DefaultRouteTable as DefaultRouteTable,
)
from cdktf_cdktf_provider_aws.default_security_group import (
    DefaultSecurityGroup as DefaultSecurityGroup,
)
from cdktf_cdktf_provider_aws.ec2_managed_prefix_list import (
    Ec2ManagedPrefixList as Ec2ManagedPrefixList,
)
from cdktf_cdktf_provider_aws.ec2_managed_prefix_list import (
    Ec2ManagedPrefixListEntry as Ec2ManagedPrefixListEntry,
)
from cdktf_cdktf_provider_aws.egress_only_internet_gateway import (
    EgressOnlyInternetGateway as EgressOnlyInternetGateway,
)
from cdktf_cdktf_provider_aws.eip import (
    Eip as Eip,
)
from cdktf_cdktf_provider_aws.elasticache_parameter_group import (
    ElasticacheParameterGroup as ElasticacheParameterGroup,
)
from cdktf_cdktf_provider_aws.elasticache_parameter_group import (
    ElasticacheParameterGroupParameter as ElasticacheParameterGroupParameter,
)
from cdktf_cdktf_provider_aws.elasticache_replication_group import (
    ElasticacheReplicationGroup as ElasticacheReplicationGroup,
)
from cdktf_cdktf_provider_aws.elasticache_replication_group import (
    ElasticacheReplicationGroupLogDeliveryConfiguration as ElasticacheReplicationGroupLogDeliveryConfiguration,
)
from cdktf_cdktf_provider_aws.elasticache_subnet_group import (
    ElasticacheSubnetGroup as ElasticacheSubnetGroup,
)
from cdktf_cdktf_provider_aws.elasticache_user import (
    ElasticacheUser as ElasticacheUser,
)
from cdktf_cdktf_provider_aws.elasticache_user_group import (
    ElasticacheUserGroup as ElasticacheUserGroup,
)
from cdktf_cdktf_provider_aws.flow_log import (
    FlowLog as FlowLog,
)
from cdktf_cdktf_provider_aws.flow_log import (
    FlowLogDestinationOptions as FlowLogDestinationOptions,
)
from cdktf_cdktf_provider_aws.iam_instance_profile import (
    IamInstanceProfile as IamInstanceProfile,
)
from cdktf_cdktf_provider_aws.iam_role import (
    IamRole as IamRole,
)
from cdktf_cdktf_provider_aws.iam_role_policy import (
    IamRolePolicy as IamRolePolicy,
)
from cdktf_cdktf_provider_aws.iam_role_policy_attachment import (
    IamRolePolicyAttachment as IamRolePolicyAttachment,
)
from cdktf_cdktf_provider_aws.imagebuilder_component import (
    ImagebuilderComponent as ImagebuilderComponent,
)
from cdktf_cdktf_provider_aws.imagebuilder_distribution_configuration import (
    ImagebuilderDistributionConfiguration as ImagebuilderDistributionConfiguration,
)
from cdktf_cdktf_provider_aws.imagebuilder_distribution_configuration import (
    ImagebuilderDistributionConfigurationDistribution as ImagebuilderDistributionConfigurationDistribution,
)
from cdktf_cdktf_provider_aws.imagebuilder_distribution_configuration import (
    ImagebuilderDistributionConfigurationDistributionAmiDistributionConfiguration as ImagebuilderDistributionConfigurationDistributionAmiDistributionConfiguration,
)
from cdktf_cdktf_provider_aws.imagebuilder_image import (
    ImagebuilderImage as ImagebuilderImage,
)
from cdktf_cdktf_provider_aws.imagebuilder_image import (
    ImagebuilderImageImageTestsConfiguration as ImagebuilderImageImageTestsConfiguration,
)
from cdktf_cdktf_provider_aws.imagebuilder_image import (
    ImagebuilderImageTimeouts as ImagebuilderImageTimeouts,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_pipeline import (
    ImagebuilderImagePipeline as ImagebuilderImagePipeline,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_pipeline import (
    ImagebuilderImagePipelineImageTestsConfiguration as ImagebuilderImagePipelineImageTestsConfiguration,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_pipeline import (
    ImagebuilderImagePipelineSchedule as ImagebuilderImagePipelineSchedule,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_recipe import (
    ImagebuilderImageRecipe as ImagebuilderImageRecipe,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_recipe import (
    ImagebuilderImageRecipeBlockDeviceMapping as ImagebuilderImageRecipeBlockDeviceMapping,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_recipe import (
    ImagebuilderImageRecipeBlockDeviceMappingEbs as ImagebuilderImageRecipeBlockDeviceMappingEbs,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_recipe import (
    ImagebuilderImageRecipeComponent as ImagebuilderImageRecipeComponent,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_recipe import (
    ImagebuilderImageRecipeComponentParameter as ImagebuilderImageRecipeComponentParameter,
)
from cdktf_cdktf_provider_aws.imagebuilder_infrastructure_configuration import (
    ImagebuilderInfrastructureConfiguration as ImagebuilderInfrastructureConfiguration,
)
from cdktf_cdktf_provider_aws.imagebuilder_infrastructure_configuration import (
    ImagebuilderInfrastructureConfigurationInstanceMetadataOptions as ImagebuilderInfrastructureConfigurationInstanceMetadataOptions,
)
from cdktf_cdktf_provider_aws.imagebuilder_infrastructure_configuration import (
    ImagebuilderInfrastructureConfigurationLogging as ImagebuilderInfrastructureConfigurationLogging,
)
from cdktf_cdktf_provider_aws.imagebuilder_infrastructure_configuration import (
    ImagebuilderInfrastructureConfigurationLoggingS3Logs as ImagebuilderInfrastructureConfigurationLoggingS3Logs,
)
from cdktf_cdktf_provider_aws.imagebuilder_lifecycle_policy import (
    ImagebuilderLifecyclePolicy as ImagebuilderLifecyclePolicy,
)
from cdktf_cdktf_provider_aws.imagebuilder_lifecycle_policy import (
    ImagebuilderLifecyclePolicyPolicyDetail as ImagebuilderLifecyclePolicyPolicyDetail,
)
from cdktf_cdktf_provider_aws.imagebuilder_lifecycle_policy import (
    ImagebuilderLifecyclePolicyPolicyDetailAction as ImagebuilderLifecyclePolicyPolicyDetailAction,
)
from cdktf_cdktf_provider_aws.imagebuilder_lifecycle_policy import (
    ImagebuilderLifecyclePolicyPolicyDetailActionIncludeResources as ImagebuilderLifecyclePolicyPolicyDetailActionIncludeResources,
)
from cdktf_cdktf_provider_aws.imagebuilder_lifecycle_policy import (
    ImagebuilderLifecyclePolicyPolicyDetailFilter as ImagebuilderLifecyclePolicyPolicyDetailFilter,
)
from cdktf_cdktf_provider_aws.imagebuilder_lifecycle_policy import (
    ImagebuilderLifecyclePolicyResourceSelection as ImagebuilderLifecyclePolicyResourceSelection,
)
from cdktf_cdktf_provider_aws.internet_gateway import (
    InternetGateway as InternetGateway,
)
from cdktf_cdktf_provider_aws.kms_alias import (
    KmsAlias as KmsAlias,
)
from cdktf_cdktf_provider_aws.kms_key import (
    KmsKey as KmsKey,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplate as LaunchTemplate,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplateBlockDeviceMappings as LaunchTemplateBlockDeviceMappings,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplateBlockDeviceMappingsEbs as LaunchTemplateBlockDeviceMappingsEbs,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplateIamInstanceProfile as LaunchTemplateIamInstanceProfile,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplateMetadataOptions as LaunchTemplateMetadataOptions,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplateMonitoring as LaunchTemplateMonitoring,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplateNetworkInterfaces as LaunchTemplateNetworkInterfaces,
)
from cdktf_cdktf_provider_aws.launch_template import (
    LaunchTemplateTagSpecifications as LaunchTemplateTagSpecifications,
)
from cdktf_cdktf_provider_aws.lb import (
    Lb as Lb,
)
from cdktf_cdktf_provider_aws.lb import (
    LbAccessLogs as LbAccessLogs,
)
from cdktf_cdktf_provider_aws.lb_listener import (
    LbListener as LbListener,
)
from cdktf_cdktf_provider_aws.lb_listener import (
    LbListenerDefaultAction as LbListenerDefaultAction,
)
from cdktf_cdktf_provider_aws.lb_target_group import (
    LbTargetGroup as LbTargetGroup,
)
from cdktf_cdktf_provider_aws.lb_target_group import (
    LbTargetGroupHealthCheck as LbTargetGroupHealthCheck,
)
from cdktf_cdktf_provider_aws.nat_gateway import (
    NatGateway as NatGateway,
)
from cdktf_cdktf_provider_aws.provider import (
    AwsProvider as AwsProvider,
)
from cdktf_cdktf_provider_aws.provider import (
    AwsProviderDefaultTags as AwsProviderDefaultTags,
)
from cdktf_cdktf_provider_aws.provider import (
    AwsProviderEndpoints as AwsProviderEndpoints,
)
from cdktf_cdktf_provider_aws.route import (
    Route as Route,
)
from cdktf_cdktf_provider_aws.route53_record import (
    Route53Record as Route53Record,
)
from cdktf_cdktf_provider_aws.route53_record import (
    Route53RecordAlias as Route53RecordAlias,
)
from cdktf_cdktf_provider_aws.route53_zone import (
    Route53Zone as Route53Zone,
)
from cdktf_cdktf_provider_aws.route53_zone import (
    Route53ZoneVpc as Route53ZoneVpc,
)
from cdktf_cdktf_provider_aws.route_table import (
    RouteTable as RouteTable,
)
from cdktf_cdktf_provider_aws.route_table_association import (
    RouteTableAssociation as RouteTableAssociation,
)
from cdktf_cdktf_provider_aws.s3_bucket import (
    S3Bucket as S3Bucket,
)
from cdktf_cdktf_provider_aws.s3_bucket_lifecycle_configuration import (
    S3BucketLifecycleConfiguration as S3BucketLifecycleConfiguration,
)
from cdktf_cdktf_provider_aws.s3_bucket_lifecycle_configuration import (
    S3BucketLifecycleConfigurationRule as S3BucketLifecycleConfigurationRule,
)
from cdktf_cdktf_provider_aws.s3_bucket_lifecycle_configuration import (
    S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload as S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload,
)
from cdktf_cdktf_provider_aws.s3_bucket_lifecycle_configuration import (
    S3BucketLifecycleConfigurationRuleExpiration as S3BucketLifecycleConfigurationRuleExpiration,
)
from cdktf_cdktf_provider_aws.s3_bucket_lifecycle_configuration import (
    S3BucketLifecycleConfigurationRuleFilter as S3BucketLifecycleConfigurationRuleFilter,
)
from cdktf_cdktf_provider_aws.s3_bucket_lifecycle_configuration import (
    S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration as S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration,
)
from cdktf_cdktf_provider_aws.s3_bucket_lifecycle_configuration import (
    S3BucketLifecycleConfigurationRuleTransition as S3BucketLifecycleConfigurationRuleTransition,
)
from cdktf_cdktf_provider_aws.s3_bucket_logging import (
    S3BucketLoggingA as S3BucketLoggingA,
)
from cdktf_cdktf_provider_aws.s3_bucket_logging import (
    S3BucketLoggingTargetObjectKeyFormat as S3BucketLoggingTargetObjectKeyFormat,
)
from cdktf_cdktf_provider_aws.s3_bucket_logging import (
    S3BucketLoggingTargetObjectKeyFormatPartitionedPrefix as S3BucketLoggingTargetObjectKeyFormatPartitionedPrefix,
)
from cdktf_cdktf_provider_aws.s3_bucket_metric import (
    S3BucketMetric as S3BucketMetric,
)
from cdktf_cdktf_provider_aws.s3_bucket_ownership_controls import (
    S3BucketOwnershipControls as S3BucketOwnershipControls,
)
from cdktf_cdktf_provider_aws.s3_bucket_ownership_controls import (
    S3BucketOwnershipControlsRule as S3BucketOwnershipControlsRule,
)
from cdktf_cdktf_provider_aws.s3_bucket_policy import (
    S3BucketPolicy as S3BucketPolicy,
)
from cdktf_cdktf_provider_aws.s3_bucket_public_access_block import (
    S3BucketPublicAccessBlock as S3BucketPublicAccessBlock,
)
from cdktf_cdktf_provider_aws.s3_bucket_server_side_encryption_configuration import (
    S3BucketServerSideEncryptionConfigurationA as S3BucketServerSideEncryptionConfigurationA,
)
from cdktf_cdktf_provider_aws.s3_bucket_server_side_encryption_configuration import (
    S3BucketServerSideEncryptionConfigurationRuleA as S3BucketServerSideEncryptionConfigurationRuleA,
)
from cdktf_cdktf_provider_aws.s3_bucket_server_side_encryption_configuration import (
    S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA as S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA,
)
from cdktf_cdktf_provider_aws.s3_bucket_versioning import (
    S3BucketVersioningA as S3BucketVersioningA,
)
from cdktf_cdktf_provider_aws.s3_bucket_versioning import (
    S3BucketVersioningVersioningConfiguration as S3BucketVersioningVersioningConfiguration,
)
from cdktf_cdktf_provider_aws.s3_object import (
    S3Object as S3Object,
)
from cdktf_cdktf_provider_aws.secretsmanager_secret import (
    SecretsmanagerSecret as SecretsmanagerSecret,
)
from cdktf_cdktf_provider_aws.secretsmanager_secret_version import (
    SecretsmanagerSecretVersion as SecretsmanagerSecretVersion,
)
from cdktf_cdktf_provider_aws.security_group import (
    SecurityGroup as SecurityGroup,
)
from cdktf_cdktf_provider_aws.sns_topic import (
    SnsTopic as SnsTopic,
)
from cdktf_cdktf_provider_aws.sns_topic_policy import (
    SnsTopicPolicy as SnsTopicPolicy,
)
from cdktf_cdktf_provider_aws.sns_topic_subscription import (
    SnsTopicSubscription as SnsTopicSubscription,
)
from cdktf_cdktf_provider_aws.sqs_queue import (
    SqsQueue as SqsQueue,
)
from cdktf_cdktf_provider_aws.sqs_queue_policy import (
    SqsQueuePolicy as SqsQueuePolicy,
)
from cdktf_cdktf_provider_aws.ssm_parameter import (
    SsmParameter as SsmParameter,
)
from cdktf_cdktf_provider_aws.subnet import (
    Subnet as Subnet,
)
from cdktf_cdktf_provider_aws.vpc import (
    Vpc as Vpc,
)
from cdktf_cdktf_provider_aws.vpc_endpoint import (
    VpcEndpoint as VpcEndpoint,
)
from cdktf_cdktf_provider_aws.vpc_endpoint_service import (
    VpcEndpointService as VpcEndpointService,
)
from cdktf_cdktf_provider_aws.vpc_security_group_egress_rule import (
    VpcSecurityGroupEgressRule as VpcSecurityGroupEgressRule,
)
from cdktf_cdktf_provider_aws.vpc_security_group_ingress_rule import (
    VpcSecurityGroupIngressRule as VpcSecurityGroupIngressRule,
)
