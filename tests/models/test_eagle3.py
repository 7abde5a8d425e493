from __future__ import annotations

import pytest
import torch

from speculators.checkpoint.config import VerifierName, to_document
from speculators.checkpoint.eagle3 import FORMAT, Eagle3Config
from speculators.errors import RecipeError
from speculators.models.eagle3 import Eagle3Draft, attend
from tests.models import tiny

VARIANTS = [
    {},
    {"layers": 3},
    {"norm_before_fc": False, "fc_norm": True},
    {"norm_before_fc": False, "aux_layers": (0, 5)},
    {"num_key_value_heads": 4, "head_dim": 6},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_parameter_names_are_the_checkpoint_tensors_that_the_flags_call_for(changes) -> None:
    config = tiny.config(**changes)
    shapes = {name: tuple(tensor.shape) for name, tensor in Eagle3Draft(config).state_dict().items()}
    wanted = FORMAT.tensors(to_document(config, 3, VerifierName("local:x", "0", "LlamaForCausalLM"))).required
    frozen = {"lm_head.weight", "d2t"}
    assert shapes == {name: shape for name, shape in wanted.items() if name not in frozen}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"aux_layers": (4, 2)}, "ascend"),
        ({"aux_layers": (2, 2)}, "distinct"),
        ({"aux_layers": ()}, "at least one layer"),
        ({"fc_norm": True}, "exclude each other"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"draft_vocab_size": 51}, "larger than the verifier's"),
        ({"layers": 0}, "at least one layer"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes, complaint) -> None:
    with pytest.raises(RecipeError, match=complaint):
        tiny.config(**changes)


def test_the_recipe_and_the_verifier_decide_the_shape() -> None:
    algorithm = {
        "kind": "eagle3", "speculative_tokens": 3, "aux_layers": [1, 2, 4], "layers": 1,
        "draft_vocabulary": 20, "norm_before_residual": False, "norm_before_fc": True, "fc_norm": False,
        "norm_output": False,
    }  # fmt: skip
    assert Eagle3Config.for_verifier(tiny.FACTS, algorithm) == tiny.CONFIG


def test_keys_of_later_steps_are_seen_by_their_own_row_only() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 2, 2, 4, generator=generator)  # [T, Hkv, G, D]
    cache = [tuple(torch.randn(2, 5, 2, 4, generator=generator)) for _ in range(3)]
    before = attend(queries, cache)
    disturbed = [(keys.clone(), values.clone()) for keys, values in cache]
    for keys, values in disturbed[1:]:
        keys[3], values[3] = 9.0, 9.0
    changed = (attend(queries, disturbed) != before).flatten(1).any(dim=1)
    assert changed.tolist() == [False, False, False, True, False]
    disturbed = [(keys.clone(), values.clone()) for keys, values in cache]
    disturbed[0][1][3] = 9.0
    changed = (attend(queries, disturbed) != before).flatten(1).any(dim=1)
    assert changed.tolist() == [False, False, False, True, True]


def test_a_window_slides_along_with_the_drafted_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(6, 1, 1, 4, generator=generator)  # [T, Hkv, G, D]
    cache = [tuple(torch.randn(2, 6, 1, 4, generator=generator)) for _ in range(2)]

    def seen(steps: int, row: int) -> list[int]:
        """The rows of step 0 that ``row`` sees at the last of ``steps``, by disturbing one at a time."""
        found = []
        before = attend(queries, cache[:steps], window=3)
        for key in range(6):
            values = cache[0][1].clone()
            values[key] += 1
            changed = attend(queries, [(cache[0][0], values), *cache[1:steps]], window=3)
            found += [key] if (changed != before)[row].any() else []
        return found

    assert seen(1, row=4) == [2, 3, 4]
    assert seen(2, row=4) == [3, 4]  # the third is the drafted token itself
