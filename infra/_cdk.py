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
        App,
        Fn,
        LocalBackend,
        S3Backend,
        TerraformOutput,
        TerraformResource,
        TerraformResourceLifecycle,
        TerraformStack,
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
    AutoscalingGroupInstanceMaintenancePolicy as AutoscalingGroupInstanceMaintenancePolicy,
    AutoscalingGroupInstanceRefresh as AutoscalingGroupInstanceRefresh,
    AutoscalingGroupInstanceRefreshPreferences as AutoscalingGroupInstanceRefreshPreferences,
    AutoscalingGroupLaunchTemplate as AutoscalingGroupLaunchTemplate,
    AutoscalingGroupMixedInstancesPolicy as AutoscalingGroupMixedInstancesPolicy,
    AutoscalingGroupMixedInstancesPolicyInstancesDistribution as AutoscalingGroupMixedInstancesPolicyInstancesDistribution,
    AutoscalingGroupMixedInstancesPolicyLaunchTemplate as AutoscalingGroupMixedInstancesPolicyLaunchTemplate,
    AutoscalingGroupMixedInstancesPolicyLaunchTemplateLaunchTemplateSpecification as AutoscalingGroupMixedInstancesPolicyLaunchTemplateLaunchTemplateSpecification,
    AutoscalingGroupMixedInstancesPolicyLaunchTemplateOverride as AutoscalingGroupMixedInstancesPolicyLaunchTemplateOverride,
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
    AutoscalingPolicyStepAdjustment as AutoscalingPolicyStepAdjustment,
    AutoscalingPolicyTargetTrackingConfiguration as AutoscalingPolicyTargetTrackingConfiguration,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecification as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecification,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetrics as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetrics,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStat as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStat,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetric as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetric,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetricDimensions as AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetricDimensions,
)
from cdktf_cdktf_provider_aws.budgets_budget import (
    BudgetsBudget as BudgetsBudget,
    BudgetsBudgetCostFilter as BudgetsBudgetCostFilter,
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
    CloudwatchEventTargetDeadLetterConfig as CloudwatchEventTargetDeadLetterConfig,
)
from cdktf_cdktf_provider_aws.cloudwatch_log_group import (
    CloudwatchLogGroup as CloudwatchLogGroup,
)
from cdktf_cdktf_provider_aws.cloudwatch_metric_alarm import (
    CloudwatchMetricAlarm as CloudwatchMetricAlarm,
    CloudwatchMetricAlarmMetricQuery as CloudwatchMetricAlarmMetricQuery,
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
    ElasticacheParameterGroupParameter as ElasticacheParameterGroupParameter,
)
from cdktf_cdktf_provider_aws.elasticache_replication_group import (
    ElasticacheReplicationGroup as ElasticacheReplicationGroup,
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
    ImagebuilderDistributionConfigurationDistribution as ImagebuilderDistributionConfigurationDistribution,
    ImagebuilderDistributionConfigurationDistributionAmiDistributionConfiguration as ImagebuilderDistributionConfigurationDistributionAmiDistributionConfiguration,
)
from cdktf_cdktf_provider_aws.imagebuilder_image import (
    ImagebuilderImage as ImagebuilderImage,
    ImagebuilderImageImageTestsConfiguration as ImagebuilderImageImageTestsConfiguration,
    ImagebuilderImageTimeouts as ImagebuilderImageTimeouts,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_pipeline import (
    ImagebuilderImagePipeline as ImagebuilderImagePipeline,
    ImagebuilderImagePipelineImageTestsConfiguration as ImagebuilderImagePipelineImageTestsConfiguration,
    ImagebuilderImagePipelineSchedule as ImagebuilderImagePipelineSchedule,
)
from cdktf_cdktf_provider_aws.imagebuilder_image_recipe import (
    ImagebuilderImageRecipe as ImagebuilderImageRecipe,
    ImagebuilderImageRecipeBlockDeviceMapping as ImagebuilderImageRecipeBlockDeviceMapping,
    ImagebuilderImageRecipeBlockDeviceMappingEbs as ImagebuilderImageRecipeBlockDeviceMappingEbs,
    ImagebuilderImageRecipeComponent as ImagebuilderImageRecipeComponent,
    ImagebuilderImageRecipeComponentParameter as ImagebuilderImageRecipeComponentParameter,
)
from cdktf_cdktf_provider_aws.imagebuilder_infrastructure_configuration import (
    ImagebuilderInfrastructureConfiguration as ImagebuilderInfrastructureConfiguration,
    ImagebuilderInfrastructureConfigurationInstanceMetadataOptions as ImagebuilderInfrastructureConfigurationInstanceMetadataOptions,
    ImagebuilderInfrastructureConfigurationLogging as ImagebuilderInfrastructureConfigurationLogging,
    ImagebuilderInfrastructureConfigurationLoggingS3Logs as ImagebuilderInfrastructureConfigurationLoggingS3Logs,
)
from cdktf_cdktf_provider_aws.imagebuilder_lifecycle_policy import (
    ImagebuilderLifecyclePolicy as ImagebuilderLifecyclePolicy,
    ImagebuilderLifecyclePolicyPolicyDetail as ImagebuilderLifecyclePolicyPolicyDetail,
    ImagebuilderLifecyclePolicyPolicyDetailAction as ImagebuilderLifecyclePolicyPolicyDetailAction,
    ImagebuilderLifecyclePolicyPolicyDetailActionIncludeResources as ImagebuilderLifecyclePolicyPolicyDetailActionIncludeResources,
    ImagebuilderLifecyclePolicyPolicyDetailFilter as ImagebuilderLifecyclePolicyPolicyDetailFilter,
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
    LaunchTemplateBlockDeviceMappings as LaunchTemplateBlockDeviceMappings,
    LaunchTemplateBlockDeviceMappingsEbs as LaunchTemplateBlockDeviceMappingsEbs,
    LaunchTemplateIamInstanceProfile as LaunchTemplateIamInstanceProfile,
    LaunchTemplateMetadataOptions as LaunchTemplateMetadataOptions,
    LaunchTemplateMonitoring as LaunchTemplateMonitoring,
    LaunchTemplateNetworkInterfaces as LaunchTemplateNetworkInterfaces,
    LaunchTemplateTagSpecifications as LaunchTemplateTagSpecifications,
)
from cdktf_cdktf_provider_aws.lb import (
    Lb as Lb,
    LbAccessLogs as LbAccessLogs,
)
from cdktf_cdktf_provider_aws.lb_listener import (
    LbListener as LbListener,
    LbListenerDefaultAction as LbListenerDefaultAction,
)
from cdktf_cdktf_provider_aws.lb_target_group import (
    LbTargetGroup as LbTargetGroup,
    LbTargetGroupHealthCheck as LbTargetGroupHealthCheck,
)
from cdktf_cdktf_provider_aws.nat_gateway import (
    NatGateway as NatGateway,
)
from cdktf_cdktf_provider_aws.provider import (
    AwsProvider as AwsProvider,
    AwsProviderDefaultTags as AwsProviderDefaultTags,
    AwsProviderEndpoints as AwsProviderEndpoints,
)
from cdktf_cdktf_provider_aws.route import (
    Route as Route,
)
from cdktf_cdktf_provider_aws.route53_record import (
    Route53Record as Route53Record,
    Route53RecordAlias as Route53RecordAlias,
)
from cdktf_cdktf_provider_aws.route53_zone import (
    Route53Zone as Route53Zone,
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
    S3BucketLifecycleConfigurationRule as S3BucketLifecycleConfigurationRule,
    S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload as S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload,
    S3BucketLifecycleConfigurationRuleExpiration as S3BucketLifecycleConfigurationRuleExpiration,
    S3BucketLifecycleConfigurationRuleFilter as S3BucketLifecycleConfigurationRuleFilter,
    S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration as S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration,
    S3BucketLifecycleConfigurationRuleTransition as S3BucketLifecycleConfigurationRuleTransition,
)
from cdktf_cdktf_provider_aws.s3_bucket_logging import (
    S3BucketLoggingA as S3BucketLoggingA,
)
from cdktf_cdktf_provider_aws.s3_bucket_metric import (
    S3BucketMetric as S3BucketMetric,
)
from cdktf_cdktf_provider_aws.s3_bucket_ownership_controls import (
    S3BucketOwnershipControls as S3BucketOwnershipControls,
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
    S3BucketServerSideEncryptionConfigurationRuleA as S3BucketServerSideEncryptionConfigurationRuleA,
    S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA as S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA,
)
from cdktf_cdktf_provider_aws.s3_bucket_versioning import (
    S3BucketVersioningA as S3BucketVersioningA,
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
