"""The reference's process: ``python reference.py``, with the reference's package first on PYTHONPATH."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pipe
import torch
from case import Case
from exchange import made, taken
from full_size import full_size
from model import build, empty_model, forward, gradients, load_vocabulary, shifted
from prepared import loaded, prepared
from resume import resumed
from safetensors.torch import save_file
from settings import fields, run_yaml
from stepping import Trainer
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

import speculators
from speculators.losses.eager import kl_div_loss


def about() -> dict[str, Any]:
    """Which package answers."""
    return {
        "version": version("speculators"),
        "folder": str(Path(speculators.__file__).parents[1]),
        "threads": torch.get_num_threads(),
    }


def loss_and_gradients(case: str, out: str, attention: str) -> dict[str, Any]:
    """One forward and backward of the case at ``case``; the gradients are written to ``out``."""
    read = Case.read(Path(case))
    model = build(read, attention)
    loss, metrics = forward(model, shifted(read.batch), read.steps, read.step_decay)
    loss.backward()
    save_file({name: tensor.contiguous() for name, tensor in gradients(model).items()}, out)
    return {"loss": loss.item(), "metrics": {name: value.item() for name, value in metrics.items()}}


def gemma_targets(case: str, verifier: str, out: str) -> dict[str, Any]:
    """What it teaches of a Gemma verifier, a model folder, against what that says by transformers' norm.

    ``divergence``: mean KL of the two over the draft vocabulary; ``same``: share of equal greedy tokens.
    The verifier's own logits [S, Vd] are written to ``out``.
    """
    read = Case.read(Path(case))
    model = empty_model(read.shape, "sdpa", verifier)
    load_vocabulary(model, read.verifier["draft_ids"])
    model.load_verifier_weights()
    norm = GemmaRMSNorm(read.shape["hidden_size"], eps=read.shape["rms_norm_eps"])
    norm.load_state_dict(model.verifier_norm.state_dict())
    states = read.batch["hidden_states"][:, -1]  # [S, H]
    with torch.no_grad():
        taught, truth = (model.verifier_lm_head(by(states)) for by in (model.verifier_norm, norm))  # [S, Vd]
    save_file({"logits": truth}, out)
    divergence = kl_div_loss(taught[None], truth[None]).mean()
    same = (taught.argmax(-1) == truth.argmax(-1)).float().mean()
    return {"divergence": divergence.item(), "same": same.item()}


TRAINER = Trainer()
VERBS: dict[str, pipe.Verb] = {
    "about": about,
    "full_size": full_size,
    "prepare": TRAINER.prepare,
    "step": TRAINER.step,
    "loss_and_gradients": loss_and_gradients,
    "resumed": resumed,
    "gemma_targets": gemma_targets,
    "taken": taken,
    "made": made,
    "prepared": prepared,
    "loaded": loaded,
    "fields": fields,
    "run_yaml": run_yaml,
}

if __name__ == "__main__":
    pipe.answer_all(VERBS)
