"""Drafts token by token: what was proposed for an answer, what of it the verifier took, and where it said no.

A rate says how often a draft is right; the words it was wrong about say why.  Pure: what was proposed
comes from the replay, what the words are from a tokenizer's ``decode``.

Of each draft only the accepted tokens and the first wrong one are kept.  What a draft says behind its first
miss is thrown away in serving, and the replay, which feeds true tokens, does not know it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from speculators.training.acceptance import Replayed, walk

#: How many of the least and the most accepted answers are kept word by word.
SHOWN = 3
#: Tokens of an answer (its first) and of a prompt (its last) that are kept.
LONGEST = 400
CONTEXT = 4  # tokens decoded before a token, so that its space is its own

Decode = Callable[[Sequence[int]], str]


class Draft(NamedTuple):
    """One draft of one answer.

    ``at``: index in the answer of the first proposed token.  The answer's tokens ``at .. at + accepted - 1``
    were proposed; ``missed`` is the token proposed in place of the next one, None where nothing wrong was
    proposed before the draft or the answer ended.
    """

    at: int
    accepted: int
    missed: int | None


class Drafted(NamedTuple):
    """One document with all its drafts."""

    replayed: Replayed
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    drafts: tuple[Draft, ...]


def drafts_of(
    proposed: Sequence[Sequence[int]], leading: Sequence[int], prompt_tokens: int
) -> tuple[Draft, ...]:
    """The drafts that serving would make of one document of T tokens.

    ``proposed`` [T, K]: the draft's tokens by row, -1 where nothing could be proposed; ``leading`` [T]: how
    many of them match (``training.acceptance.walk`` says which rows serving drafts from).
    """
    found = []
    for row, accepted in walk(leading, prompt_tokens):
        wrong = proposed[row][accepted] if accepted < len(proposed[row]) else -1
        found.append(Draft(row + 2 - prompt_tokens, accepted, wrong if wrong >= 0 else None))
    return tuple(found)


def extremes(everything: Sequence[Drafted], count: int = SHOWN) -> dict[str, list[Drafted]]:
    """The ``worst`` and the ``best`` answers by acceptance length, no answer in both.

    Looping answers are left out while there are others: repeating oneself is no merit of the draft.
    """
    drafted = [one for one in everything if one.drafts]
    calm = [one for one in drafted if not one.replayed.looping] or drafted
    ranked = sorted(calm, key=lambda one: (one.replayed.tally.acceptance_length or 0.0, one.replayed.id))
    count = min(count, len(ranked) // 2) or len(ranked[:1])
    worst = ranked[:count]
    return {"worst": worst, "best": ranked[len(worst) :][::-1][:count]}


def spelled(one: Drafted, decode: Decode) -> dict[str, Any]:
    """An answer with its drafts in words, for a JSON document.

    ``tokens``: the answer's words; ``drafts``: [at, accepted, word proposed in place of the next or null].
    """
    answer = one.answer[:LONGEST]
    words = [_word(answer[:place], token, decode) for place, token in enumerate(answer)]
    return {
        "id": one.replayed.id,
        "looping": one.replayed.looping,
        "prompt": decode(one.prompt[-LONGEST:]),
        "tokens": words,
        "cut": len(one.answer) - len(answer),
        "drafts": [
            [draft.at, draft.accepted, _missed(draft, one.answer, decode)]
            for draft in one.drafts
            if draft.at < len(answer)
        ],
    }


def _missed(draft: Draft, answer: Sequence[int], decode: Decode) -> str | None:
    if draft.missed is None:
        return None
    return _word(answer[: draft.at + draft.accepted], draft.missed, decode)


def _word(before: Sequence[int], token: int, decode: Decode) -> str:
    """The text that ``token`` adds behind ``before``.

    A token alone loses its space with some tokenizers, and half a character cannot be told from its other
    half; where the text before is changed by the token, the token's own text has to do.
    """
    context = list(before[-CONTEXT:])
    without, with_it = decode(context), decode([*context, token])
    return with_it[len(without) :] if with_it.startswith(without) else decode([token])
