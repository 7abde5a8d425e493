"""``engine.args``: their way to vLLM's command line and what a parser has against them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from speculators.recipe.engine_args import to_argv
from speculators.recipe.engine_check import _RefusalError, find_problems
from speculators.recipe.engine_probe import ask_engine, engine_diagnostics
from speculators.recipe.yaml_loader import load_yaml
from tests.needs import needed


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        ({}, []),
        ({"max_model_len": 512}, ["--max-model-len", "512"]),
        ({"gpu_memory_utilization": 0.85}, ["--gpu-memory-utilization", "0.85"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"dtype": None}, []),
        ({"capture_sizes": [1, 2]}, ["--capture-sizes", "1", "2"]),
        ({"compilation_config": {"level": 3}}, ["--compilation-config", '{"level": 3}']),
        ({"max_model_len": -1}, ["--max-model-len=-1"]),
        ({"a": 1, "b": "x y"}, ["--a", "1", "--b", "x y"]),
    ],
)
def test_arguments_become_words(args: dict[str, Any], argv: list[str]) -> None:
    assert to_argv(args) == argv


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _RefusalError(message)


def engine_parser() -> Parser:
    parser = Parser()
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    parser.add_argument("--disable-log-stats", action="store_true")
    return parser


def test_a_parser_finds_every_bad_argument() -> None:
    args = {
        "max_model_len": "long",
        "max_model": 512,  # argparse alone would take it for max_model_len
        "dtype": "float23",
        "disable_log_stats": False,
        "enable_prefix_caching": False,
    }
    problems = list(find_problems(args, engine_parser()))
    assert [(problem.key, problem.about) for problem in problems] == [
        ("max_model_len", "value"),
        ("max_model", "key"),
        ("dtype", "value"),
        ("disable_log_stats", "value"),
    ]
    assert problems[1].hint == "did you mean 'max_model_len'?"


def test_good_arguments_have_no_problems() -> None:
    args = {
        "max_model_len": 512,
        "dtype": "float32",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    assert list(find_problems(args, engine_parser())) == []


def test_without_vllm_the_answer_is_not_checked(tmp_path: Path) -> None:
    # -S: an interpreter that sees neither site-packages nor, therefore, vLLM.
    python = tmp_path / "python"
    root = Path(__file__).parents[2]
    python.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    answer = ask_engine({"dtype": "float32"}, str(python))
    assert answer.vllm == ""
    assert answer.reason == "vLLM is not installed in this environment"


def test_a_parser_that_cannot_start_is_not_checked(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: libcuda.so' >&2\nexit 1\n")
    python.chmod(0o755)
    answer = ask_engine({}, str(python))
    assert answer.reason == "vLLM's parser could not be loaded: ImportError: libcuda.so"


@pytest.mark.integration
def test_vllm_itself_refuses_bad_arguments_at_their_place() -> None:
    needed("vllm")
    text = "engine:\n  args:\n    max_model_lenn: 512\n    dtype: flot\n    enforce_eager: true\n"
    document = load_yaml(text, "r.yaml")
    found = engine_diagnostics(document.data["engine"]["args"], document.positions)
    assert [(item.severity, item.line, item.col) for item in found] == [("error", 3, 5), ("error", 4, 12)]


@pytest.mark.integration
def test_vllm_itself_accepts_the_recipes_for_this_machine() -> None:
    """Those for large models are asked about in ``tests/contracts``, by the engine's CUDA builds."""
    needed("vllm")
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("smollm2-*.yaml"))
    command = [sys.executable, "-m", "speculators", "check", "--engine", "--json", *map(str, recipes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(recipe["diagnostics"] == [] for recipe in json.loads(done.stdout)["recipes"])
