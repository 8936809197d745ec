"""What Terraform's AWS provider 5.100 asks of AWS for each type of resource: IAM actions.

A line is a type, then what it takes to make, read, change and delete one, tags included. Actions
stand without their service where it is the one before the colon.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ALWAYS", "DATA", "RESOURCES"]

#: Whatever is deployed: who am I; `make preflight`.
ALWAYS: Final = "sts: GetCallerIdentity; servicequotas: GetServiceQuota GetAWSDefaultServiceQuota"

DATA: Final = {
    "aws_availability_zones": "ec2: DescribeAvailabilityZones",
    "aws_secretsmanager_random_password": "secretsmanager: GetRandomPassword",
}

RESOURCES: Final = {
    # Terraform's own: asks AWS for nothing.
    "terraform_data": "",
    # -- network
    "aws_vpc": "ec2: CreateVpc DescribeVpcs DescribeVpcAttribute ModifyVpcAttribute DeleteVpc "
    "DescribeNetworkAcls DescribeRouteTables DescribeSecurityGroups AssociateVpcCidrBlock "
    "DisassociateVpcCidrBlock CreateTags DeleteTags",
    "aws_default_route_table": "ec2: DescribeRouteTables DeleteRoute DisableVgwRoutePropagation "
    "CreateTags DeleteTags",
    "aws_default_security_group": "ec2: DescribeSecurityGroups RevokeSecurityGroupIngress "
    "RevokeSecurityGroupEgress CreateTags DeleteTags",
    "aws_internet_gateway": "ec2: CreateInternetGateway AttachInternetGateway "
    "DescribeInternetGateways DetachInternetGateway DeleteInternetGateway CreateTags DeleteTags",
    "aws_egress_only_internet_gateway": "ec2: CreateEgressOnlyInternetGateway "
    "DescribeEgressOnlyInternetGateways DeleteEgressOnlyInternetGateway CreateTags DeleteTags",
    "aws_eip": "ec2: AllocateAddress DescribeAddresses DescribeAddressesAttribute "
    "DisassociateAddress ReleaseAddress CreateTags DeleteTags",
    "aws_nat_gateway": "ec2: CreateNatGateway DescribeNatGateways DeleteNatGateway "
    "DescribeNetworkInterfaces CreateTags DeleteTags",
    "aws_subnet": "ec2: CreateSubnet DescribeSubnets ModifySubnetAttribute DeleteSubnet "
    "AssociateSubnetCidrBlock DisassociateSubnetCidrBlock DescribeNetworkInterfaces CreateTags "
    "DeleteTags",
    "aws_route_table": "ec2: CreateRouteTable DescribeRouteTables DeleteRouteTable CreateTags "
    "DeleteTags",
    "aws_route": "ec2: CreateRoute DescribeRouteTables ReplaceRoute DeleteRoute",
    "aws_route_table_association": "ec2: AssociateRouteTable DescribeRouteTables "
    "ReplaceRouteTableAssociation DisassociateRouteTable",
    "aws_security_group": "ec2: CreateSecurityGroup DescribeSecurityGroups DeleteSecurityGroup "
    "RevokeSecurityGroupEgress RevokeSecurityGroupIngress DescribeSecurityGroupRules "
    "DescribeNetworkInterfaces CreateTags DeleteTags",
    "aws_vpc_security_group_ingress_rule": "ec2: AuthorizeSecurityGroupIngress "
    "DescribeSecurityGroupRules ModifySecurityGroupRules RevokeSecurityGroupIngress CreateTags "
    "DeleteTags",
    "aws_vpc_security_group_egress_rule": "ec2: AuthorizeSecurityGroupEgress "
    "DescribeSecurityGroupRules ModifySecurityGroupRules RevokeSecurityGroupEgress CreateTags "
    "DeleteTags",
    "aws_ec2_managed_prefix_list": "ec2: CreateManagedPrefixList DescribeManagedPrefixLists "
    "GetManagedPrefixListEntries ModifyManagedPrefixList DeleteManagedPrefixList CreateTags "
    "DeleteTags",
    "aws_vpc_endpoint": "ec2: CreateVpcEndpoint DescribeVpcEndpoints DescribePrefixLists "
    "ModifyVpcEndpoint DeleteVpcEndpoints DescribeNetworkInterfaces CreateTags DeleteTags",
    "aws_vpc_endpoint_service": "ec2: CreateVpcEndpointServiceConfiguration "
    "DescribeVpcEndpointServiceConfigurations ModifyVpcEndpointServiceConfiguration "
    "DescribeVpcEndpointServicePermissions ModifyVpcEndpointServicePermissions "
    "DeleteVpcEndpointServiceConfigurations CreateTags DeleteTags",
    "aws_flow_log": "ec2: CreateFlowLogs DescribeFlowLogs DeleteFlowLogs CreateTags DeleteTags; "
    "logs: CreateLogDelivery GetLogDelivery UpdateLogDelivery DeleteLogDelivery "
    "ListLogDeliveries",
    # -- machines
    "aws_launch_template": "ec2: CreateLaunchTemplate CreateLaunchTemplateVersion "
    "DescribeLaunchTemplates DescribeLaunchTemplateVersions ModifyLaunchTemplate "
    "DeleteLaunchTemplate DeleteLaunchTemplateVersions CreateTags DeleteTags RunInstances",
    "aws_autoscaling_group": "autoscaling: CreateAutoScalingGroup DescribeAutoScalingGroups "
    "DescribeScalingActivities DescribeInstanceRefreshes StartInstanceRefresh "
    "CancelInstanceRefresh UpdateAutoScalingGroup DeleteAutoScalingGroup "
    "SetInstanceProtection SuspendProcesses ResumeProcesses EnableMetricsCollection "
    "DisableMetricsCollection CreateOrUpdateTags DeleteTags AttachLoadBalancerTargetGroups "
    "DetachLoadBalancerTargetGroups DescribeLoadBalancerTargetGroups "
    "TerminateInstanceInAutoScalingGroup; "
    "ec2: RunInstances CreateTags DescribeInstances DescribeImages DescribeSubnets; "
    "elasticloadbalancing: DescribeTargetHealth",
    "aws_autoscaling_lifecycle_hook": "autoscaling: PutLifecycleHook DescribeLifecycleHooks "
    "DeleteLifecycleHook",
    "aws_autoscaling_notification": "autoscaling: PutNotificationConfiguration "
    "DescribeNotificationConfigurations DeleteNotificationConfiguration",
    "aws_autoscaling_policy": "autoscaling: PutScalingPolicy DescribePolicies DeletePolicy; "
    "cloudwatch: PutMetricAlarm DeleteAlarms DescribeAlarms",
    # -- balancers, names, certificates
    "aws_lb": "elasticloadbalancing: CreateLoadBalancer DescribeLoadBalancers "
    "DescribeLoadBalancerAttributes ModifyLoadBalancerAttributes DescribeCapacityReservation "
    "SetSecurityGroups SetSubnets SetIpAddressType DeleteLoadBalancer AddTags RemoveTags "
    "DescribeTags; ec2: DescribeSubnets DescribeSecurityGroups DescribeVpcs "
    "DescribeInternetGateways DescribeNetworkInterfaces DescribeAccountAttributes",
    "aws_lb_listener": "elasticloadbalancing: CreateListener DescribeListeners "
    "DescribeListenerAttributes ModifyListener ModifyListenerAttributes DeleteListener AddTags "
    "RemoveTags DescribeTags",
    "aws_lb_target_group": "elasticloadbalancing: CreateTargetGroup DescribeTargetGroups "
    "DescribeTargetGroupAttributes ModifyTargetGroup ModifyTargetGroupAttributes "
    "DeleteTargetGroup AddTags RemoveTags DescribeTags",
    "aws_route53_zone": "route53: CreateHostedZone GetHostedZone UpdateHostedZoneComment "
    "DeleteHostedZone AssociateVPCWithHostedZone DisassociateVPCFromHostedZone GetChange "
    "ListResourceRecordSets ChangeResourceRecordSets ListTagsForResource ChangeTagsForResource "
    "GetDNSSEC; ec2: DescribeVpcs",
    "aws_route53_record": "route53: ChangeResourceRecordSets ListResourceRecordSets GetChange "
    "GetHostedZone",
    "aws_acm_certificate": "acm: RequestCertificate DescribeCertificate DeleteCertificate "
    "ListTagsForCertificate AddTagsToCertificate RemoveTagsFromCertificate",
    "aws_acm_certificate_validation": "acm: DescribeCertificate",
    # -- storage
    "aws_s3_bucket": "s3: CreateBucket ListBucket DeleteBucket GetBucketAcl GetBucketCORS "
    "GetBucketWebsite GetBucketVersioning GetAccelerateConfiguration GetBucketRequestPayment "
    "GetBucketLogging GetLifecycleConfiguration GetReplicationConfiguration "
    "GetEncryptionConfiguration GetBucketObjectLockConfiguration GetBucketTagging "
    "PutBucketTagging GetBucketPolicy GetBucketLocation ListBucketVersions DeleteObject "
    "DeleteObjectVersion",
    "aws_s3_bucket_lifecycle_configuration": "s3: PutLifecycleConfiguration "
    "GetLifecycleConfiguration",
    "aws_s3_bucket_logging": "s3: PutBucketLogging GetBucketLogging",
    "aws_s3_bucket_metric": "s3: PutMetricsConfiguration GetMetricsConfiguration",
    "aws_s3_bucket_ownership_controls": "s3: PutBucketOwnershipControls "
    "GetBucketOwnershipControls",
    "aws_s3_bucket_policy": "s3: PutBucketPolicy GetBucketPolicy DeleteBucketPolicy",
    "aws_s3_bucket_public_access_block": "s3: PutBucketPublicAccessBlock "
    "GetBucketPublicAccessBlock",
    "aws_s3_bucket_server_side_encryption_configuration": "s3: PutEncryptionConfiguration "
    "GetEncryptionConfiguration",
    "aws_s3_bucket_versioning": "s3: PutBucketVersioning GetBucketVersioning",
    "aws_s3_object": "s3: PutObject GetObject GetObjectTagging PutObjectTagging DeleteObject "
    "DeleteObjectVersion ListBucketVersions",
    "aws_elasticache_parameter_group": "elasticache: CreateCacheParameterGroup "
    "DescribeCacheParameterGroups DescribeCacheParameters ModifyCacheParameterGroup "
    "ResetCacheParameterGroup DeleteCacheParameterGroup ListTagsForResource AddTagsToResource "
    "RemoveTagsFromResource",
    "aws_elasticache_replication_group": "elasticache: CreateReplicationGroup "
    "DescribeReplicationGroups DescribeCacheClusters ModifyReplicationGroup "
    "IncreaseReplicaCount DecreaseReplicaCount DeleteReplicationGroup ListTagsForResource "
    "AddTagsToResource RemoveTagsFromResource; "
    # It lets ElastiCache write its log, in the name of whoever asks.
    "logs: CreateLogDelivery GetLogDelivery UpdateLogDelivery DeleteLogDelivery "
    "ListLogDeliveries DescribeLogGroups PutResourcePolicy DescribeResourcePolicies",
    "aws_elasticache_subnet_group": "elasticache: CreateCacheSubnetGroup "
    "DescribeCacheSubnetGroups ModifyCacheSubnetGroup DeleteCacheSubnetGroup "
    "ListTagsForResource AddTagsToResource RemoveTagsFromResource",
    "aws_elasticache_user": "elasticache: CreateUser DescribeUsers ModifyUser DeleteUser "
    "ListTagsForResource AddTagsToResource RemoveTagsFromResource",
    "aws_elasticache_user_group": "elasticache: CreateUserGroup DescribeUserGroups "
    "ModifyUserGroup DeleteUserGroup ListTagsForResource AddTagsToResource "
    "RemoveTagsFromResource",
    # -- keys, secrets, parameters
    "aws_kms_key": "kms: CreateKey DescribeKey GetKeyPolicy PutKeyPolicy GetKeyRotationStatus "
    "EnableKeyRotation ListResourceTags TagResource UntagResource UpdateKeyDescription "
    "ScheduleKeyDeletion",
    # Whoever names a key for a service to use must be allowed to use it.
    "aws_kms_alias": "kms: CreateAlias ListAliases UpdateAlias DeleteAlias Encrypt Decrypt "
    "GenerateDataKey GenerateDataKeyWithoutPlaintext CreateGrant ReEncryptFrom ReEncryptTo",
    "aws_secretsmanager_secret": "secretsmanager: CreateSecret DescribeSecret GetResourcePolicy "
    "UpdateSecret DeleteSecret TagResource UntagResource",
    "aws_secretsmanager_secret_version": "secretsmanager: PutSecretValue DescribeSecret "
    "GetSecretValue UpdateSecretVersionStage ListSecretVersionIds",
    "aws_ssm_parameter": "ssm: PutParameter GetParameter GetParameters DescribeParameters "
    "DeleteParameter AddTagsToResource RemoveTagsFromResource ListTagsForResource",
    # -- roles
    "aws_iam_role": "iam: CreateRole GetRole UpdateRole UpdateRoleDescription "
    "UpdateAssumeRolePolicy DeleteRole ListRolePolicies ListAttachedRolePolicies "
    "ListInstanceProfilesForRole ListRoleTags TagRole UntagRole PassRole "
    "CreateServiceLinkedRole",
    "aws_iam_role_policy": "iam: PutRolePolicy GetRolePolicy DeleteRolePolicy",
    "aws_iam_role_policy_attachment": "iam: AttachRolePolicy ListAttachedRolePolicies "
    "DetachRolePolicy",
    "aws_iam_instance_profile": "iam: CreateInstanceProfile GetInstanceProfile "
    "AddRoleToInstanceProfile RemoveRoleFromInstanceProfile DeleteInstanceProfile "
    "TagInstanceProfile UntagInstanceProfile ListInstanceProfileTags",
    # -- images
    "aws_imagebuilder_component": "imagebuilder: CreateComponent GetComponent DeleteComponent "
    "TagResource UntagResource ListTagsForResource",
    "aws_imagebuilder_distribution_configuration": "imagebuilder: CreateDistributionConfiguration "
    "GetDistributionConfiguration UpdateDistributionConfiguration "
    "DeleteDistributionConfiguration TagResource UntagResource ListTagsForResource",
    "aws_imagebuilder_image": "imagebuilder: CreateImage GetImage DeleteImage TagResource "
    "UntagResource ListTagsForResource",
    "aws_imagebuilder_image_pipeline": "imagebuilder: CreateImagePipeline GetImagePipeline "
    "UpdateImagePipeline DeleteImagePipeline TagResource UntagResource ListTagsForResource",
    "aws_imagebuilder_image_recipe": "imagebuilder: CreateImageRecipe GetImageRecipe "
    "DeleteImageRecipe TagResource UntagResource ListTagsForResource; ssm: GetParameter; "
    "ec2: DescribeImages",
    "aws_imagebuilder_infrastructure_configuration": "imagebuilder: "
    "CreateInfrastructureConfiguration GetInfrastructureConfiguration "
    "UpdateInfrastructureConfiguration DeleteInfrastructureConfiguration TagResource "
    "UntagResource ListTagsForResource",
    "aws_imagebuilder_lifecycle_policy": "imagebuilder: CreateLifecyclePolicy GetLifecyclePolicy "
    "UpdateLifecyclePolicy DeleteLifecyclePolicy TagResource UntagResource ListTagsForResource",
    # -- watching
    "aws_cloudwatch_metric_alarm": "cloudwatch: PutMetricAlarm DescribeAlarms DeleteAlarms "
    "ListTagsForResource TagResource UntagResource",
    "aws_cloudwatch_composite_alarm": "cloudwatch: PutCompositeAlarm DescribeAlarms DeleteAlarms "
    "ListTagsForResource TagResource UntagResource",
    "aws_cloudwatch_dashboard": "cloudwatch: PutDashboard GetDashboard DeleteDashboards",
    "aws_cloudwatch_query_definition": "logs: PutQueryDefinition DescribeQueryDefinitions "
    "DeleteQueryDefinition",
    "aws_cloudwatch_log_group": "logs: CreateLogGroup DescribeLogGroups PutRetentionPolicy "
    "DeleteRetentionPolicy AssociateKmsKey DisassociateKmsKey DeleteLogGroup "
    "ListTagsForResource TagResource UntagResource",
    "aws_cloudwatch_event_rule": "events: PutRule DescribeRule DeleteRule ListTagsForResource "
    "TagResource UntagResource",
    "aws_cloudwatch_event_target": "events: PutTargets ListTargetsByRule RemoveTargets",
    "aws_sns_topic": "sns: CreateTopic GetTopicAttributes SetTopicAttributes DeleteTopic "
    "ListTagsForResource TagResource UntagResource",
    "aws_sns_topic_policy": "sns: SetTopicAttributes GetTopicAttributes",
    "aws_sns_topic_subscription": "sns: Subscribe GetSubscriptionAttributes "
    "SetSubscriptionAttributes Unsubscribe",
    "aws_sqs_queue": "sqs: CreateQueue GetQueueAttributes SetQueueAttributes GetQueueUrl "
    "DeleteQueue ListQueueTags TagQueue UntagQueue",
    "aws_sqs_queue_policy": "sqs: SetQueueAttributes GetQueueAttributes",
    "aws_budgets_budget": "budgets: ModifyBudget ViewBudget ListTagsForResource TagResource "
    "UntagResource",
}  # fmt: skip
