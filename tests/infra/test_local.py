"""What is left out on a laptop is one list, which does not grow unseen."""

from infra.local import MOTO_CANNOT, MOTO_MISTAKES

#: Written down a second time on purpose: who adds to the list says so here.
KNOWN = {
    "aws_autoscaling_notification",
    "aws_budgets_budget",
    "aws_cloudwatch_composite_alarm",
    "aws_cloudwatch_query_definition",
    "aws_elasticache_parameter_group",
    "aws_elasticache_replication_group",
    "aws_elasticache_subnet_group",
    "aws_elasticache_user_group",
    "aws_imagebuilder_component",
    "aws_imagebuilder_distribution_configuration",
    "aws_imagebuilder_image",
    "aws_imagebuilder_image_pipeline",
    "aws_imagebuilder_image_recipe",
    "aws_imagebuilder_infrastructure_configuration",
    "aws_imagebuilder_lifecycle_policy",
    "aws_s3_bucket_metric",
}


def test_the_list_of_what_an_emulator_cannot_do_has_not_grown() -> None:
    assert set(MOTO_CANNOT) <= KNOWN, "mend the emulator, or argue for it here"
    assert set(MOTO_CANNOT) >= KNOWN, "the emulator learned something: take it off here too"
    assert all(reason for reason in MOTO_CANNOT.values())


def test_the_list_of_what_an_emulator_gets_wrong_has_not_grown() -> None:
    assert set(MOTO_MISTAKES) == {"aws_s3_bucket_policy"}
