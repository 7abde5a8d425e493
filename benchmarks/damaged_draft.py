"""A run's draft with so much noise in its weights that a known part of its acceptance is lost.

    python benchmarks/damaged_draft.py runs/smollm2-135m-eagle3/latest ./damaged --loss 0.10

Of use where the answer must be known: ``real_verdicts.py`` asks a gate whether such a draft is worse.  Needs
an engine, which captures the states that drafting is replayed on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from speculators.documents import read_json, read_jsonl, write_json  # noqa: E402
from speculators.recipe.yaml_loader import load_yaml  # noqa: E402

#: Halvings of the search for the damage; noise changes acceptance smoothly.
HALVINGS = 12
#: The damage is found on replayed drafting; what is served differs by a few per cent of it.
NEAR = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("target", type=Path, help="where the damaged checkpoint goes")
    parser.add_argument("--loss", type=float, default=0.10, help="of acceptance length, a fraction")
    options = parser.parse_args()
    damage(options.run, options.target, options.loss)


def damage(run: Path, target: Path, loss: float) -> None:
    """Put noise into every matrix of the run's draft, so much that its acceptance length falls by ``loss``.

    Acceptance is that of greedy drafting replayed on the run's own plain answers, captured once.

    Raises:
        SystemExit: there is not so much acceptance to lose.
    """
    from safetensors.torch import load_file, save_file

    from speculators.inspection.replay import replay_checkpoint

    model = run / "model"
    verifier = Path(read_json(model / "config.json")["speculators_config"]["verifier"]["name_or_path"])
    (weights,) = model.glob("*.safetensors")
    tensors = load_file(weights)
    with tempfile.TemporaryDirectory() as scratch:
        documents = captured(run, verifier, Path(scratch) / "states")
        candidate = Path(scratch) / "candidate"
        shutil.copytree(model, candidate)

        def length(strength: float) -> float:
            save_file(noisy(tensors, strength), candidate / weights.name)
            found: float = replay_checkpoint(candidate, verifier, documents)["all"]["acceptance_length"]
            return found

        whole = length(0.0)
        wanted, low, high = whole * (1 - loss), 0.0, 4.0
        if length(high) > wanted:
            raise SystemExit(f"an acceptance length of {whole:.3f} cannot fall by {loss:.0%}: train longer")
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if (found := length(middle)) > wanted else (low, middle)
            if abs(found / wanted - 1) < NEAR / 2:
                break
        print(f"noise of {middle:.3f} standard deviations: acceptance length {whole:.3f} -> {found:.3f}")
        write_json(target.with_suffix(".json"), {"strength": middle, "length": [whole, found]})
        put(candidate, target)


def put(folder: Path, target: Path) -> None:
    """Copy ``folder`` to ``target``, which is there only when all of it is."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.rename(target)


def noisy(tensors: dict[str, Any], strength: float) -> dict[str, Any]:
    """The draft's matrices plus ``strength`` of their own standard deviations, always the same draw."""
    import torch

    draw = torch.Generator().manual_seed(0)
    result = {}
    for name, tensor in sorted(tensors.items()):  # [rows, columns] where it is a matrix of weights
        result[name] = tensor
        if tensor.is_floating_point() and tensor.dim() == 2 and "embed_tokens" not in name:
            noise = torch.randn(tensor.shape, generator=draw)
            result[name] = (tensor.float() + strength * tensor.float().std() * noise).to(tensor.dtype)
    return result


def captured(run: Path, verifier: Path, scratch: Path) -> list[Any]:
    """What the plain arm answered in the run's first round, with the states that the draft reads."""
    from speculators.checkpoint.config import from_document
    from speculators.datagen.capture import CaptureRow, capture_documents

    rows = [
        CaptureRow(
            row["id"],
            row["id"],
            "benchmark",
            row["looping"],
            row["prompt_token_ids"],
            row["output_token_ids"],
        )
        for row in read_jsonl(run / "bench" / "round-01" / "plain" / "client" / "tokens.jsonl")
        if row["output_token_ids"]
    ]
    aux_layers = from_document(read_json(run / "model" / "config.json")).aux_layers
    depth = read_json(verifier / "config.json")["num_hidden_layers"]
    engine = load_yaml((run / "resolved.yaml").read_text(encoding="utf-8"), "").data["engine"]["args"]
    return list(capture_documents(verifier, rows, [*aux_layers, depth], engine, scratch))


if __name__ == "__main__":
    main()
