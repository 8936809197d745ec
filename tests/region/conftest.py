"""What the longer run of a region needs."""

from tests.clients.conftest import sources, user_root

__all__ = ["sources", "user_root"]
