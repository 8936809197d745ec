# Every resource planned and made with made-up answers: what refers to what holds together.
mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
}
run "plan" { command = plan }
run "apply" { command = apply }
