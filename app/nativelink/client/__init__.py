"""The other end of our services: what people's tools ask a running system."""
