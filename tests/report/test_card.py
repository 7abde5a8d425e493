"""The model card as the Hub reads it: front matter, figures, and code blocks that end where they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.bundle.create import bundle
from speculators.cli import app
from speculators.report.model_card import CardFacts, model_card
from speculators.report.served_card import fenced, repeated
from tests.bundle.world import a_run
from tests.needs import needed

FACTS = CardFacts(
    name="my-draft",
    verifier_id="Qwen/Qwen3-8B@b968826",
    verifier_digest="d" * 64,
    verifier_repository="Qwen/Qwen3-8B",
    algorithm="eagle3",
    speculative_tokens=3,
    aux_layers=(2, 18, 33),
    draft_vocabulary=32000,
    vocabulary=151936,
    weights_sha256="e" * 64,
    training=None,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = a_run(tmp_path)
    (run / "model" / "README.md").write_text(model_card(FACTS), encoding="utf-8")
    return run


def card(source: Path, out: Path) -> str:
    assert app.main(["report", str(source), "--format", "card", "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_the_hub_reads_the_front_matter(run: Path, tmp_path: Path) -> None:
    hub = needed("huggingface_hub")
    data = hub.ModelCard(card(run, tmp_path / "README.md")).data.to_dict()
    assert data["base_model"] == "Qwen/Qwen3-8B"
    assert data["base_model_relation"] in ("adapter", "finetune", "merge", "quantized")
    assert data["library_name"] == "speculators"
    assert {"speculative-decoding", "eagle3", "vllm"} <= set(data["tags"])
    assert set(data) <= {"base_model", "base_model_relation", "library_name", "tags", "license", "datasets"}


def test_the_card_has_the_sentence_the_figures_and_the_way_to_repeat_them(run: Path, tmp_path: Path) -> None:
    page = card(run, tmp_path / "README.md")
    assert page.startswith("---\n")
    assert "**1.02× the plain speed at one request at a time" in page
    assert "| 1 | 1.02× [" in page
    assert "<details><summary>Recipe</summary>" in page
    assert "speculators run recipe.yaml" in page


def test_a_bundle_has_the_same_card(run: Path, tmp_path: Path) -> None:
    archive = bundle(run, tmp_path / "one.speculators.tar").path
    assert card(archive, tmp_path / "a.md") == card(run, tmp_path / "b.md")


def test_a_run_without_its_model_has_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path)
    (run / "model" / "README.md").unlink(missing_ok=True)
    assert app.main(["report", str(run), "--format", "card"]) == 2
    assert "[no-card]" in capsys.readouterr().err


def test_what_is_quoted_cannot_end_its_block() -> None:
    assert fenced("a: |\n  ```\n  x", "yaml") == "````yaml\na: |\n  ```\n  x\n````\n"


def test_a_published_run_is_repeated_from_its_bundle_and_another_from_recipe_and_lock() -> None:
    assert "speculators run hf://me/x/a.tar" in repeated("name: x\n", "pins: 1\n", "hf://me/x/a.tar")
    alone = repeated("name: x\n", "pins: 1\n", "")
    assert "speculators run recipe.yaml --locked" in alone
    assert "<details><summary>Lock</summary>\n\n```yaml\npins: 1\n```" in alone
