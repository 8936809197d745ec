"""Stores that make one store of several."""
