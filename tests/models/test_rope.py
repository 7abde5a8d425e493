from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from speculators.checkpoint.shape import ROPE_KINDS
from speculators.errors import StageError
from speculators.models.rope import KINDS, Rope, turn

HEAD_DIM = 64
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}
VARIANTS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": YARN,
    "yarn without rounding": {**YARN, "truncate": False, "beta_fast": 20, "beta_slow": 2},
    "yarn with its factor given": {**YARN, "attention_factor": 1.25},
    "yarn with mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
}  # fmt: skip


@pytest.mark.parametrize("scaling", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_angles_are_those_of_transformers(scaling, theta: float) -> None:
    parameters = {"rope_theta": theta, **scaling}
    config = LlamaConfig(head_dim=HEAD_DIM, max_position_embeddings=32768, rope_parameters=dict(parameters))
    frequencies, scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    ours = Rope.of(parameters, HEAD_DIM)
    torch.testing.assert_close(ours.frequencies.float(), frequencies, rtol=2e-6, atol=0)
    assert ours.scale == pytest.approx(scale)


def test_plain_rope_is_the_paper_s() -> None:
    ours = Rope.of({"rope_theta": 10000.0}, HEAD_DIM)
    expected = torch.tensor([10000.0 ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)])
    torch.testing.assert_close(ours.frequencies.float(), expected)
    cos, _ = ours.tables(torch.tensor([0, 3]), torch.float64)
    assert cos.shape == (2, 1, HEAD_DIM // 2)
    assert cos[1, 0, 0].item() == pytest.approx(torch.tensor(3.0, dtype=torch.float64).cos().item())


def test_scores_depend_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 8, generator=generator, dtype=torch.float64)
    rope = Rope.of({"rope_theta": 10000.0}, 8)

    def score(query_position: int, key_position: int) -> float:
        turned = [
            turn(x, *rope.tables(torch.tensor([position]), torch.float64))
            for x, position in ((query, query_position), (key, key_position))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 4) == pytest.approx(score(103, 100), rel=1e-12)
    assert score(7, 4) != pytest.approx(score(7, 5), rel=1e-3)


@pytest.mark.parametrize(
    "parameters",
    [{"rope_type": "dynamic", "factor": 2.0}, {"partial_rotary_factor": 0.5}, {"mrope_section": [8, 12, 12]}],
)
def test_a_kind_that_is_not_computed_is_refused(parameters) -> None:
    with pytest.raises(StageError, match="RoPE of a draft"):
        Rope.of({"rope_theta": 10000.0, **parameters}, HEAD_DIM)


def test_every_kind_that_checkpoints_may_name_is_computed() -> None:
    assert tuple(KINDS) == ROPE_KINDS
