"""NativeLink's system in Python: a Remote Execution API v2 cache, scheduler and worker."""

__all__ = ["__version__"]

#: The same as in pyproject.toml (a test compares), and known without asking package metadata.
__version__ = "0.1.0"
