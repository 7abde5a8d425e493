"""Fixtures that tests of several rooms share."""

from hypothesis import settings

from tests.engine.fixtures import (
    engine,
    newer_docker_root,
    newer_engine,
    newer_podman,
    oci_engine,
    podman_engine,
    podman_image,
    python_image,
    registry,
    small_image,
    whole_image,
)
from tests.faults.fixtures import undisturbed

__all__ = [
    "engine",
    "newer_docker_root",
    "newer_engine",
    "newer_podman",
    "oci_engine",
    "podman_engine",
    "podman_image",
    "python_image",
    "registry",
    "small_image",
    "undisturbed",
    "whole_image",
]

# How long an example takes says more of a shared machine than of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
