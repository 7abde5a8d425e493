"""Where the reference is wrong, or decides otherwise, and this project deliberately does not follow.

Each is shown on the reference itself; ``docs/reference-differences.md`` lists them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.training.verifier import FrozenVerifier
from tests.reference.cases import SHAPE, random_case
from tests.reference.conftest import Ask
from tests.reference.environment import Side
from tests.reference.inside.case import Case
from tests.reference.ours import distance, hits, taught

pytestmark = pytest.mark.integration


def write_gemma(folder: Path, case: Case) -> Path:
    """The case's verifier as a model folder of a family that stores a norm's gain less one."""
    folder.mkdir()
    config = {
        "model_type": "gemma",
        "architectures": ["GemmaForCausalLM"],
        "tie_word_embeddings": False,
        "num_hidden_layers": 8,
        **{key: value for key, value in case.shape.items() if key != "layers"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        "model.embed_tokens.weight": case.verifier["embedding"],
        "model.norm.weight": case.verifier["final_norm"] - 1,
        "lm_head.weight": case.verifier["head"],
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_verifier_whose_norm_multiplies_by_one_plus_its_weight_is_taught_wrongly_by_the_reference(
    reference: Side, tmp_path: Path
) -> None:
    case = random_case(SHAPE, 1)
    folder, path = write_gemma(tmp_path / "gemma", case), case.write(tmp_path / "case.safetensors")
    out = tmp_path / "truth.safetensors"
    answer = reference.ask("gemma_targets", case=str(path), verifier=str(folder), out=str(out))
    assert answer["divergence"] > 0.5
    assert answer["same"] < 0.5
    verifier = FrozenVerifier.of(load_verifier_weights(folder), case.verifier["draft_ids"])
    torch.testing.assert_close(
        verifier.draft_logits(case.batch["hidden_states"][:, -1]), load_file(out)["logits"]
    )


def test_the_reference_counts_a_token_that_the_draft_cannot_say_as_a_hit(ask: Ask) -> None:
    """Its truth is the best token of the *draft's* vocabulary; in serving the verifier's word counts."""
    case = random_case(SHAPE, 1)
    # A draft that is the verifier in small: its states are the verifier's last, its layer adds nothing.
    for name, tensor in case.draft.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
    hidden = SHAPE.hidden_size
    case.draft["fc.weight"].zero_()[:, :hidden] = torch.eye(hidden)
    case.draft["norm.weight"].copy_(case.verifier["final_norm"])
    case.batch["hidden_states"][:-1, 0] = case.batch["hidden_states"][1:, -1]
    raw = case._replace(shape={**case.shape, "norm_before_fc": False})
    del raw.draft["input_norm.weight"]
    metrics = ask(raw).metrics
    assert metrics["full_acc_0_sum"] / metrics["full_acc_0_total"] == 1.0
    right = hits(raw)
    assert 0 < right.count(False) < len(right)


def test_the_reference_weighs_a_token_by_the_batch_it_was_packed_into(ask: Ask) -> None:
    """Two ranks or sequences of unequal supervision: the mean of means is not the mean of tokens."""
    long, short = random_case(SHAPE, 3, ((60, 6),)), random_case(SHAPE, 3, ((60, 56),))
    both = {name: torch.cat([long.batch[name], short.batch[name]]) for name in long.batch}
    both["document_ids"][60:] = 1
    pooled = ask(long._replace(batch=both)).gradients
    alone = [ask(case).gradients for case in (long, short)]
    for name, gradient in taught(long, short).gradients.items():
        assert distance(gradient, pooled[name]) < 1e-5
        assert distance((alone[0][name] + alone[1][name]) / 2, pooled[name]) > 0.1


def test_the_reference_teaches_across_a_documents_end_where_the_next_prompt_is_short(ask: Ask) -> None:
    apart = random_case(SHAPE, 3, ((20, 6), (20, 6)))
    close = random_case(SHAPE, 3, ((20, 6), (20, 1)))
    assert taught(apart).loss == pytest.approx(ask(apart).loss, rel=1e-5)
    assert abs(taught(close).loss - ask(close).loss) > 1e-3 * taught(close).loss


def test_the_references_sliding_window_does_not_slide_with_the_steps(ask: Ask) -> None:
    """Serving drafts step k from position t + k, where the engine's window has moved on by k."""
    case = random_case(replace(SHAPE, sliding_window=8), 3)
    whole = random_case(SHAPE, 3)
    theirs, ours = ask(case), taught(case)
    assert abs(theirs.loss - ask(whole).loss) > 1e-3 * ours.loss, "the window is not seen at all"
    assert theirs.metrics["loss_0_sum"] == pytest.approx(ours.by_step[0], rel=1e-5)
    assert abs(ours.loss - theirs.loss) > 1e-3 * ours.loss


def test_the_reference_forgets_steps_and_rounds_moments_when_it_resumes(
    reference: Side, tmp_path: Path
) -> None:
    """Here nothing is lost: ``tests/training/test_resume.py`` compares bytes."""
    path = random_case(SHAPE, 1).write(tmp_path / "case.safetensors")
    kept = reference.ask("resumed", case=str(path))
    assert kept["counters"] == [kept["steps"] - 1]
    assert 1e-3 < kept["moved"] < 1e-2
    assert 1e-3 < kept["moment"] < 1e-2
