"""Stacks only compose modules."""
