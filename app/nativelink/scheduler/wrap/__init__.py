"""Schedulers around another scheduler."""
