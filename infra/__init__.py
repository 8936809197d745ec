"""The AWS kit: from `regions/NAME.yaml` to Terraform, by CDK for Terraform."""
