"""A sound draft behind the wrong flags: each is named, and the command that a run itself gives is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from speculators.checkpoint.check import Check
from speculators.cli.app import main
from speculators.errors import RecipeError
from speculators.inspection.serve_command import command_checks, read_command
from speculators.serving.command import Speculation, server_arguments, server_argv
from tests.inspection.faults import FAULTS, good


def document(kind: str = "eagle3", tokens: int = 3, **more: Any) -> dict[str, Any]:
    proposal = {"proposal_type": "greedy", "speculative_tokens": tokens}
    return {
        "speculators_model_type": kind,
        "speculators_config": {"algorithm": kind, "proposal_methods": [proposal]},
        "transformer_layer_config": {"max_position_embeddings": 2048},
        **more,
    }


def failed(command: str, folder: Path, config: dict[str, Any]) -> dict[str, Check]:
    return {
        check.name: check for check in command_checks(read_command(command), folder, config) if not check.ok
    }


def test_words_blocks_and_dotted_names_are_read_alike(tmp_path: Path) -> None:
    block = {"method": "eagle3", "model": "d", "num_speculative_tokens": 3}
    ways = (
        f"vllm serve m --speculative-config '{json.dumps(block)}'",
        f"vllm serve m \\\n -sc='{json.dumps(block)}'",
        "vllm serve m --spec-method eagle3 --spec-model=d --spec-tokens 3",
        "vllm serve m -sc.method eagle3 --speculative_config.model d -sc.num_speculative_tokens=3",
        "A=1 python -m vllm.entrypoints.openai.api_server --model m"
        " --spec-method eagle3 --spec-model d --spec-tokens 3",
    )
    for way in ways:
        command = read_command(way)
        assert (command.model, command.speculation) == ("m", block), way
    sizes = read_command("vllm serve m --cudagraph-capture-sizes 1 2 64 --enforce-eager").args
    assert sizes == {"cudagraph_capture_sizes": [1, 2, 64], "enforce_eager": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vllm bench", "no 'serve' in it"),
        ("vllm serve 'm", "no closing quotation"),
        ("vllm serve m -sc {", "no JSON object"),
        ("vllm serve m --max-num-seqs 256 --max-num-seqs.x 3", "--max-num-seqs is no JSON object"),
        ("vllm serve m --max-num-seqs many", "--max-num-seqs is 'many'"),
        ("vllm serve m --max-cudagraph-capture-size big", "--max-cudagraph-capture-size is 'big'"),
        ("vllm serve m --cudagraph-capture-sizes 1 two", "--cudagraph-capture-sizes is [1, 'two']"),
        ("""vllm serve m -cc '{"cudagraph_capture_sizes": []}'""", "--cudagraph-capture-sizes is []"),
        ("vllm serve m --spec-model d --spec-tokens -1", "--num-speculative-tokens is True"),
        ("vllm serve m --spec-model d --spec-tokens=-1", "--num-speculative-tokens is -1"),
        (
            """vllm serve m -sc '{"model": "d", "num_speculative_tokens": 0}'""",
            "--num-speculative-tokens is 0",
        ),
    ],
)
def test_what_is_no_command_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        read_command(text)


@pytest.mark.parametrize("kind", ["eagle3", "peagle", "dflash", "eagle"])
def test_the_command_of_a_run_is_sound(kind: str, tmp_path: Path) -> None:
    args = {"max_num_seqs": 64, "max_model_len": 512}
    words = server_argv(
        ["vllm", "serve"], Path("m"), server_arguments(80, args, Speculation(tmp_path, kind, 3))
    )
    command = " ".join(f"'{word}'" for word in words)
    assert not failed(command, tmp_path, document(kind))


def test_a_folder_that_is_served_itself_needs_no_flags(tmp_path: Path) -> None:
    assert not failed(f"vllm serve {tmp_path} --max-num-seqs 128", tmp_path, document())


CASES = {
    "nothing speculates": ("", "engine is given a draft"),
    "another method": ("--spec-model d --spec-method eagle", "method as the draft's"),
    "more tokens": ("--spec-model d --spec-tokens 5", "tokens as trained"),
    "wide batches": ("--spec-model d --max-num-seqs 512", "graphs reach the widest step"),
    "few sizes": (
        "--spec-model d --max-num-seqs 8 --cudagraph-capture-sizes 1 2 16",
        "graphs reach the widest step",
    ),
    "no graphs": ("--spec-model d --enforce-eager", "graphs are captured"),
    "no graphs by their mode": (
        """--spec-model d --max-num-seqs 1000 -cc '{"cudagraph_mode": "NONE"}'""",
        "graphs are captured",
    ),
    "no graphs by their mode's number": (
        """--spec-model d --max-num-seqs 1000 -cc '{"cudagraph_mode": 0}'""",
        "graphs are captured",
    ),
    "sizes above what a step can have": (
        "--spec-model d --max-num-batched-tokens 512 --max-num-seqs 1000 --cudagraph-capture-sizes 1 2 4096",
        "graphs reach the widest step",
    ),
    "no graphs by their level": ("--spec-model d --max-num-seqs 1000 -O0", "graphs are captured"),
    "long context": ("--spec-model d --max-model-len 8192", "draft reaches the context"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_flag_is_named(name: str, tmp_path: Path) -> None:
    flags, expected = CASES[name]
    flags += "" if "--max-num-seqs" in flags else " --max-num-seqs 64"
    assert list(failed(f"vllm serve m {flags}", tmp_path, document())) == [expected]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--enforce-eager", "--enforce-eager"),
        ("-cc.cudagraph_mode=none", "cudagraph_mode none"),
        ("-cc.cudagraph_mode 0", "cudagraph_mode 0"),
        ("-O0", "-O0 without a cudagraph_mode"),
        ("--optimization-level 0", "-O0 without a cudagraph_mode"),
    ],
)
def test_what_turns_graphs_off_is_named_and_nothing_that_was_not_given(
    flags: str, said: str, tmp_path: Path
) -> None:
    (check,) = failed(f"vllm serve m --spec-model d --max-num-seqs 8 {flags}", tmp_path, document()).values()
    assert (check.name, check.detail) == ("graphs are captured", said)


@pytest.mark.parametrize("tokens", ["256", "512", "0.5k"])
def test_no_step_is_wider_than_the_scheduler_allows(tokens: str, tmp_path: Path) -> None:
    command = f"vllm serve m --spec-model d --max-num-seqs 1000 --max-num-batched-tokens {tokens}"
    assert not failed(command, tmp_path, document())
    (wide,) = failed(command.replace(tokens, "2K"), tmp_path, document()).values()
    assert wide.detail.startswith("graphs reach to 512 tokens (1024 on data-centre Blackwell): 128 requests")


def test_a_mode_brings_graphs_back_at_the_lowest_level(tmp_path: Path) -> None:
    command = "vllm serve m --spec-model d --max-num-seqs 8 -O0 -cc.cudagraph_mode FULL"
    assert not failed(command, tmp_path, document())


def test_a_parallel_draft_must_be_asked_in_parallel(tmp_path: Path) -> None:
    found = failed(
        "vllm serve m --spec-model d --spec-method eagle3 --max-num-seqs 8", tmp_path, document("peagle")
    )
    assert found["method as the draft's"].detail == "parallel_drafting is None, not True"


def test_a_parallel_draft_knows_no_more_tokens_and_a_recurrent_one_guesses_on(tmp_path: Path) -> None:
    command = "vllm serve m --spec-model d --spec-tokens 8 --max-num-seqs 8"
    severities = [
        failed(command, tmp_path, document(kind))["tokens as trained"].severity
        for kind in ("dflash", "eagle3")
    ]
    assert severities == ["error", "warning"]


def test_without_a_limit_of_requests_it_is_said_where_graphs_end(tmp_path: Path) -> None:
    found = failed("vllm serve m --spec-model d", tmp_path, document())["graphs reach the widest step"]
    assert "128 requests of 3 + 1 tokens" in found.detail
    assert found.severity == "warning"


def test_what_only_the_larger_ceiling_of_some_machines_holds_is_worth_a_look(tmp_path: Path) -> None:
    severities = {
        requests: failed(f"vllm serve m --spec-model d --max-num-seqs {requests}", tmp_path, document())
        for requests in (128, 129, 256, 257)
    }
    assert not severities[128]
    found = [severities[count]["graphs reach the widest step"] for count in (129, 256, 257)]
    assert [check.severity for check in found] == ["warning", "warning", "error"]
    assert "1024 on data-centre Blackwell" in found[0].detail


def test_another_folder_is_another_draft(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = failed(f"vllm serve m --spec-model {tmp_path / 'other'} --max-num-seqs 8", tmp_path, document())
    assert list(found) == ["engine is given this draft"]


def test_inspect_tells_them_with_their_cost_and_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(document()))
    assert main(["inspect", str(tmp_path), "--serve", "vllm serve m --spec-model d --spec-method eagle"]) == 6
    said = capsys.readouterr().out
    assert "method is 'eagle', not 'eagle3'" in said
    assert "acceptance length of exactly 1.0" in said


def test_of_a_mended_draft_the_command_is_read_as_naming_it(tmp_path: Path, capsys) -> None:
    subject = good(tmp_path, 5)
    FAULTS["norm_output flipped"].inject(subject)
    draft, mended = subject.folder, tmp_path / "mended"
    command = f"vllm serve m --spec-model {draft} --spec-tokens 3 --max-num-seqs 8"
    assert main(["inspect", str(draft), "--serve", command, "--fix", str(mended)]) == 0
    said = capsys.readouterr().out.split("mended: ", 1)[1]
    assert f"serve it by the same command with {mended} in place of {draft}" in said
    assert "another" not in said
    assert main(["inspect", str(draft), "--serve", f"{command} --spec-method eagle",
                 "--fix", str(tmp_path / "again")]) == 6  # fmt: skip
    assert "method is 'eagle', not 'eagle3'" in capsys.readouterr().out.split("mended: ", 1)[1]
