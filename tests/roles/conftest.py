"""A program to build, as the tests of clients have it."""

from tests.clients.conftest import sources, user_root, workspace

__all__ = ["sources", "user_root", "workspace"]
