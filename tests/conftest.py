"""Fixtures that tests of several rooms share."""

from tests.engine.fixtures import engine, python_image, registry, small_image, whole_image

__all__ = ["engine", "python_image", "registry", "small_image", "whole_image"]
