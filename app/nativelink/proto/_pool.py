"""The descriptor pool of all generated modules, apart from protobuf's default one."""

from __future__ import annotations

from typing import Final

from google.protobuf.descriptor_pool import DescriptorPool

__all__ = ["POOL"]

POOL: Final = DescriptorPool()
