"""What ``inspect`` says of a defect, and the table of what is known about each.

A failed check alone tells an engineer little.  Beside it stands what the defect costs where it was
seen in the wild, how sure the finding is, and how to mend it.
"""

from __future__ import annotations

from typing import NamedTuple

CERTAIN, LIKELY, POSSIBLE = "certain", "likely", "possible"


class Finding(NamedTuple):
    """One thing that is wrong, or may be.

    ``trap``: the recurring trap it belongs to (D1-D12, docs/checkpoints.md); ``sure``: CERTAIN and LIKELY are
    defects, POSSIBLE is worth a look.
    """

    trap: str
    name: str
    what: str
    why: str
    sure: str
    mend: str

    @property
    def is_defect(self) -> bool:
        return self.sure != POSSIBLE


class Cause(NamedTuple):
    """What is known of a kind of defect."""

    trap: str
    why: str
    mend: str
    sure: str = CERTAIN


#: By the name of the check that found it (checkpoint.validate, or inspection.static_checks).
CAUSES = {
    "one weight file": Cause(
        "D8", "engines load every safetensors file of the folder; the last one read wins",
        "keep the model's file only (--fix keeps model.safetensors)",
    ),
    "no Python file": Cause(
        "D8", "a checkpoint must not bring code; loaders that trust it would run it, engines do not read it",
        "remove it (--fix leaves it out)", POSSIBLE,
    ),
    "no code named": Cause(
        "D8", "auto_map points at code; loaders that trust it would run it, engines do not read it",
        "remove the key (--fix does)",
    ),
    "weights readable": Cause("D12", "the file is truncated or no safetensors", "copy or download it again"),
    "config readable": Cause(
        "D12", "the config is no JSON object, or says something in a way that no reader expects",
        "copy or download it again",
    ),
    "algorithm": Cause(
        "D11", "vLLM serves by this name; EAGLE taken for EAGLE-3 gave an acceptance length of exactly 1.0",
        "convert the draft: speculators convert SOURCE --to DIR; or correct the name",
    ),
    "engine serves the kind": Cause(
        "D11", "vLLM has no reader for drafts of this kind and does not start with one", "see the message",
        POSSIBLE,
    ),
    "format recognisable": Cause(
        "D11", "with a top-level model_type vLLM no longer sees a draft here, and serves without it",
        "remove the key (--fix does)",
    ),
    "proposal and verifier named": Cause(
        "D11", "vLLM takes method, number of tokens and verifier from this block only", "write the block",
    ),
    "algorithm as tensors show": Cause(
        "D11", "engines choose what they compute by this name: EAGLE-3 served as EAGLE has an acceptance "
        "length of exactly 1.0", "write the algorithm that the tensors are of",
    ),
    "engine knows the class": Cause(
        "D11", "vLLM looks a draft's class up by this name, and stops at one it does not know",
        "convert the draft: speculators convert SOURCE --to DIR",
    ),
    "names as engines read them": Cause(
        "D11", "vLLM puts model. before every name itself, and stops at one that has it already",
        "convert the draft: speculators convert SOURCE --to DIR",
    ),
    "every answer teaches": Cause(
        "D10", "rows without a supervised token teach nothing; when all are so, training learns nothing",
        "look at the prompts of such rows, and at datagen.max_tokens",
    ),
    "enough is taught": Cause(
        "D10", "nearly all tokens are prompts: the draft sees few answers for the time it takes",
        "shorter prompts, longer answers (datagen.max_tokens), or a mask that covers every turn", LIKELY,
    ),
    "answers end": Cause(
        "D10", "the draft seldom sees how an answer ends, and guesses badly there",
        "raise datagen.max_tokens", POSSIBLE,
    ),
    "thinking as asked": Cause(
        "D10", "the draft learnt another kind of text than is served, with or without thinking",
        "set verifier.thinking, or chat_template_kwargs, as the server's requests will have it", LIKELY,
    ),
    "engine is given a draft": Cause(
        "D11", "the server answers, and nothing speculates",
        "serve the draft's folder, or name it in --speculative-config",
    ),
    "engine is given this draft": Cause(
        "D11", "what was looked at is not what is served", "name this folder in --speculative-config",
        POSSIBLE,
    ),
    "method as the draft's": Cause(
        "D11", "EAGLE-3 served as EAGLE has an acceptance length of exactly 1.0; a parallel draft asked "
        "token by token reads inputs it never saw", "write what the draft is, or leave the method out",
    ),
    "tokens as trained": Cause(
        "D11", "later tokens than it was trained for are accepted more rarely or never; each costs time",
        "ask for as many as it was trained for, or measure: benchmark.speculative_tokens",
    ),
    "graphs reach the widest step": Cause(
        "D11", "a step has K + 1 tokens a request, and beyond the largest captured size vLLM runs kernel by "
        "kernel: the draft loses its gain at loads where plain serving keeps its graphs",
        "raise max_cudagraph_capture_size in --compilation-config, or lower --max-num-seqs or K", LIKELY,
    ),
    "graphs are captured": Cause(
        "D11", "a draft is many small kernels: on a GPU without graphs their launches eat the gain",
        "leave that out", POSSIBLE,
    ),
    "draft reaches the context": Cause(
        "D6", "positions beyond what the draft was made for are guessed badly, whatever the verifier can do",
        "serve a shorter context, or expect less there", POSSIBLE,
    ),
    "layout complete": Cause("D11", "the layout is told, but not all of it is there", "export again"),
    "format can say it": Cause(
        "D11", "nothing is wrong with it for an engine that knows the layout; it is not looked at further",
        "serve it as it is", POSSIBLE,
    ),
    "flags where engines read them": Cause(
        "D5", "vLLM looks for these at the top level, and what it does not find there is off; a norm so lost "
        "cost 0.4 of 1.8 tokens", "convert the draft: speculators convert SOURCE --to DIR",
    ),
    "biases as engines have them": Cause(
        "D5", "vLLM's layer has this one wherever q has, of uninitialised memory where it is not stored",
        "convert the draft, which writes zeros: speculators convert SOURCE --to DIR",
    ),
    "vocabulary map readable": Cause(
        "D3", "which tokens the draft says cannot be told; a wrong map gives an acceptance near 0",
        "get the map from whoever trained the draft",
    ),
    "d2t holds offsets": Cause(
        "D3", "absolute ids: engines read offsets here, and draft other tokens; acceptance near 0",
        "store offsets, id - index: --fix does where t2d agrees; of another layout convert does",
    ),
    "layer ids can be told": Cause(
        "D2", "two conventions are in use and the ids fit neither's default; one layer off cost 45 % -> 10 % "
        "at the first position", "inspect DIR --probe --verifier MODEL measures it", POSSIBLE,
    ),
    "layer ids as vLLM reads them": Cause(
        "D2", "these are layer outputs counted from zero; SGLang adds one, vLLM takes them as they are and "
        "captures each state one layer early", "convert the draft for vLLM: speculators convert", POSSIBLE,
    ),
    "aux layers fit fc": Cause("D1", "fc's columns meet other layers than in training", "correct the ids"),
    "MTP head is there": Cause(
        "D8", "engines do not notice: the head stays uninitialised memory, acceptance is 0",
        "use a release that has the head, or stitch one in",
    ),
    "aux layers written": Cause(
        "D1", "engines guess 2, N / 2, N - 3; a draft of other layers fell to an acceptance length of 1.04",
        "write the ids (--fix with --verifier writes the engines' default)",
    ),
    "reaches as far as its verifier": Cause(
        "D6", "drafts behind what was trained are worse or end; older vLLM crashed there",
        "right if requests stay shorter; else train on longer documents", POSSIBLE,
    ),
    "flags explicit": Cause(
        "D5", "readers disagree about an unwritten flag (norm_before_residual: vLLM true, others false); "
        "acceptance fell from 1.8 to 1.4 tokens",
        "write every flag (--fix writes those that tensors show)",
    ),
    "layer keys at the top": Cause(
        "D11", "vLLM reads EAGLE drafts as a plain Llama config; what stands only deeper it does not see",
        "write the decoder's keys at the top level too",
    ),
    "architecture": Cause(
        "D11", "vLLM makes its EAGLE class of a Llama architecture's name", "write the architecture",
    ),
    "mask_token_id written": Cause(
        "D11", "vLLM fills the places of unknown tokens with it, and does not start without",
        "write the token that the draft was trained with",
    ),
    "block_size written": Cause(
        "D11", "a block of another size than trained is another task", "write the trained block's size",
    ),
    "mask token exists": Cause("D7", "the verifier has no such token", "correct the id"),
    "key norms on CPU": Cause(
        "D12", "vLLM's CPU build scales every layer's context keys by the first layer's gains",
        "serve it on a GPU", POSSIBLE,
    ),
    "layers without a window": Cause(
        "D5", "speculators 0.9.0 trains such layers on whole blocks whatever the flag says, and reads it for "
        "layers with a window only; so trained, a block is guessed from half of what it saw",
        "write true if it was trained so; right if it was trained causal", POSSIBLE,
    ),
    "one norm before fc": Cause("D5", "the two exclude each other", "keep the flag whose tensors are there"),
    "aux layers ascend": Cause(
        "D1", "engines sort and de-duplicate the ids, so fc's columns meet other layers than in training",
        "write ids ascending, fc's columns in the same order",
    ),
    "aux count": Cause(
        "D1", "vLLM's Llama draft sizes fc for three states unless num_aux_hidden_states says otherwise",
        "write num_aux_hidden_states into transformer_layer_config (--fix does)",
    ),
    "aux layers exist": Cause("D1", "the verifier has no such layer to capture", "correct the ids"),
    "layer config": Cause("D6", "vLLM builds the draft from it and fills in nothing", "write it"),
    "layer keys written": Cause("D6", "a missing size falls to a default that was not trained", "write them"),
    "sizes plausible": Cause("D12", "no draft has such sizes; none can be built", "export the config again"),
    "decoder family": Cause("D11", "vLLM has EAGLE-3 drafts of these families only", "convert the draft"),
    "activation": Cause("D11", "vLLM's draft computes silu only", "the draft cannot be served"),
    "RoPE written": Cause(
        "D6", "without it the base is 10000; a lost rope_scaling or theta turns every key",
        "write rope_parameters as trained; a null rope_scaling must go (--fix removes it)",
    ),
    "layer types": Cause("D6", "one kind a layer is expected", "write as many as there are layers"),
    "draft vocabulary fits": Cause("D7", "the draft cannot say more tokens than its verifier", "correct it"),
    "no tensor missing": Cause(
        "D5", "vLLM does not notice: the parameter stays uninitialised memory, acceptance is near 0",
        "export the draft again; a missing map: --fix derives it from t2d",
    ),
    "no unknown tensor": Cause(
        "D5", "vLLM stops at some and drops others without a word (fc.bias, input_norm without its flag)",
        "export again, or set the flag that the tensor belongs to",
    ),
    "tensor shapes": Cause("D7", "config and tensors belong to different drafts", "export both again"),
    "tensor types": Cause(
        "D12", "engines cast what they find, whole numbers too, and draft by what is left", "export it again",
    ),
    "finite weights": Cause(
        "D12", "an overflow of a narrower type, or a training that diverged", "export again in a wider type",
    ),
    "d2t type": Cause("D3", "vLLM adds it to int64 ids", "store int64 (--fix does)"),
    "d2t filled in": Cause(
        "D3", "a map of zeros or of counting was never filled in: the draft says the first ids only",
        "export with the map; --fix derives it from t2d",
    ),
    "d2t ascends": Cause(
        "D3", "two draft tokens are one, or equal logits go to another token than the verifier's",
        "export with the map of the training",
    ),
    "d2t in range": Cause(
        "D3", "it leads beyond the vocabulary", "export with the map of the training",
    ),
    "t2d agrees": Cause(
        "D3", "a map of another training: drafted tokens are others than those meant; acceptance near 0",
        "export map and head of the same training",
    ),
    "embed_tokens.weight is the verifier's": Cause(
        "D4", "a random or foreign embedding was saved; SGLang hides it, vLLM uses it; acceptance near 0",
        "leave it out, engines share the verifier's; right only if it was trained on purpose",
        LIKELY,
    ),
    "lm_head.weight is the verifier's": Cause(
        "D4", "head rows of other tokens or another model; acceptance near 0",
        "rebuild them from the verifier by d2t; or the head was trained on purpose", LIKELY,
    ),
    "verifier width": Cause("D7", "the draft was made for another verifier", "name the right --verifier"),
    "verifier vocabulary": Cause(
        "D7", "a padded or foreign vocabulary; 152064 against 152576 gave 0 % acceptance",
        "name the right verifier, or pad the embedding",
    ),
    "verifier's ends readable": Cause("D8", "nothing can be compared", "see the message", POSSIBLE),
    "head size on CPU": Cause("D12", "this draft cannot be served on a CPU", "serve it on a GPU", POSSIBLE),
    "config is as trained": Cause(
        "D5", "the weights were trained under another value; a layer id off by one cost 45 % -> 10 %, a "
        "norm flag 1.8 -> 1.4 tokens", "put the trained value back (--fix does)",
    ),
    "layer id convention": Cause(
        "D2", "these are the default ids as layer outputs counted from zero; vLLM counts layers before the "
        "state and captures each one layer early (45 % -> 10 % at the first position)",
        "add one to each id, if the trainer was SpecForge, NeMo or ModelOpt; --probe measures it", LIKELY,
    ),
    "RoPE is the verifier's": Cause(
        "D6", "lost theta or scaling costs acceptance with distance (2.30 at 2k -> 1.09 at 16k tokens)",
        "right if it was trained so; else copy the verifier's rope_parameters", POSSIBLE,
    ),
    "tensors are plain": Cause(
        "D8", "engines serve a quantised draft whose config says how it is; its tensors are not looked at",
        "look at the draft that it was made of", POSSIBLE,
    ),
    "no quantisation of its own": Cause(
        "D8", "a quantization_config that came along from the verifier makes engines look for scales "
        "that are not there", "remove it (--fix does where all tensors are plain)",
    ),
    "verifier is the one meant": Cause(
        "D9", "this is another model than the draft was trained for: its words are guessed by another mind",
        "name the right verifier", LIKELY,
    ),
    "tokenizer is the verifier's": Cause(
        "D9", "other ids for the same text: every drafted token is another one; acceptance near 0",
        "serve the revision that it was trained with, or train it for this tokenizer",
    ),
    "chat template is the verifier's": Cause(
        "D9", "the draft learned texts of another form, such as with or without thinking (25 % against 60 %)",
        "serve with the template of the training, or train on texts of this one", POSSIBLE,
    ),
    "tokenizer readable": Cause("D9", "nothing can be compared", "copy or download it again", POSSIBLE),
    "d2t fits the head": Cause(
        "D3", "the head's rows are the verifier's, but of other tokens than the map says: a map of another "
        "training; acceptance near 0", "export map and head of the same training",
    ),
    "fc reads its states in order": Cause(
        "D1", "every column block is one that was trained, but meets the state of another layer; acceptance "
        "near 0", "put the blocks back in order (--fix does)",
    ),
    "fc is the trained one": Cause(
        "D4", "the states are joined by other weights than those that learnt to: re-initialised, of another "
        "training", "take it from the packaged checkpoint, or export again",
    ),
    "tensors are as written": Cause(
        "D4", "not the tensor that was packaged: overwritten, reordered or re-initialised",
        "take it from the packaged checkpoint, or export again",
    ),
    "tensors of the written type": Cause(
        "D4", "rounding costs a draft little, but no record tells any more if something else was changed",
        "take it from the packaged checkpoint, or look with --probe", POSSIBLE,
    ),
}  # fmt: skip


def finding(name: str, what: str, *, severity: str = "error") -> Finding:
    """The finding for a failed check; a check's warning is never more than possible."""
    cause = CAUSES.get(name) or Cause("", "see the message", "see the message")
    sure = POSSIBLE if severity == "warning" else cause.sure
    return Finding(cause.trap, name, what, cause.why, sure, cause.mend)
