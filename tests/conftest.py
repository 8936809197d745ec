"""Every run tests the same cases: a failure that nobody can repeat teaches nothing."""

from hypothesis import settings

settings.register_profile("same every time", derandomize=True, deadline=None, database=None)
settings.load_profile("same every time")
