"""Fixtures that tests of several rooms share."""

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
