"""Specs to objects: the one package that knows both the configuration and the implementations."""
