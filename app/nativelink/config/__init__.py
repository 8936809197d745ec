"""Configuration: a JSON5 file becomes frozen specs, or a list of problems with line and column."""

from nativelink.config.load import load_file
from nativelink.config.specs import Config

__all__ = ["Config", "load_file"]
