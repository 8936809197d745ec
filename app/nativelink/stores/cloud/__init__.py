"""Object stores of the cloud providers."""
