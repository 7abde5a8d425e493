"""vLLM's CUDA platform with the answers that it would get from eight H100s.

Only what the driver says is given here; every decision on it is vLLM's own.
"""

from __future__ import annotations

from vllm.platforms.cuda import CudaPlatformBase
from vllm.platforms.interface import DeviceCapability

MEMORY = 80 * 2**30
COMPUTE_UNITS = 132


# vLLM is not followed by the type checker, so its class is Any here.
class H100s(CudaPlatformBase):  # type: ignore[misc]
    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
        return DeviceCapability(9, 0)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "NVIDIA H100 80GB HBM3"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return MEMORY

    @classmethod
    def is_fully_connected(cls, device_ids: list[int]) -> bool:
        return True

    @classmethod
    def device_count(cls) -> int:
        return 8  # the recipes for large models spread over as many

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return COMPUTE_UNITS
