"""The engine's arguments and environment, as far as they can be known without starting it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from speculators.errors import RecipeError
from speculators.serving import environment
from speculators.serving.offline import engine_arguments
from tests.needs import needed


def test_the_recipes_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "has_cpu_engine", lambda: True)
    variables = environment.engine_environment({"VLLM_CPU_OMP_THREADS_BIND": "0-1", "MY_FLAG": 1})
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"
    assert variables["MY_FLAG"] == "1"
    assert variables["HF_HUB_OFFLINE"] == "1"


def test_openmp_is_preloaded_once_beside_what_is_preloaded_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib" / "libiomp5.so"
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr(environment, "has_cpu_engine", lambda: True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("LD_PRELOAD", f"/lib/other.so {library}")
    assert environment.engine_environment({})["LD_PRELOAD"] == f"{library}:/lib/other.so"


def test_an_engine_for_other_devices_gets_no_cpu_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "has_cpu_engine", lambda: False)
    assert not {"LD_PRELOAD", "VLLM_CPU_OMP_THREADS_BIND"} & environment.engine_environment({}).keys()


def test_sampling_and_caching_defaults_are_ours_unless_the_recipe_says_otherwise() -> None:
    assert engine_arguments({"max_num_seqs": 8}) == {
        "generation_config": "vllm",
        "enable_prefix_caching": False,
        "max_num_seqs": 8,
    }
    assert engine_arguments({"enable_prefix_caching": True})["enable_prefix_caching"] is True


@pytest.mark.integration
def test_sizes_mean_what_they_mean_to_vllms_command_line() -> None:
    needed("vllm")
    read = engine_arguments({"kv_cache_memory_bytes": "512M", "max_model_len": "auto", "dtype": "float32"})
    assert (read["kv_cache_memory_bytes"], read["max_model_len"], read["dtype"]) == (512 << 20, -1, "float32")
    with pytest.raises(RecipeError, match=r"engine\.args\.kv_cache_memory_bytes: 'plenty' is no size"):
        engine_arguments({"kv_cache_memory_bytes": "plenty"})
