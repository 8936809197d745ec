"""What people read about a stack, made from the JSON that Terraform reads."""
