"""Schema errors as diagnostics: one each, all at once, without consequences of one another.

jsonschema finds what is wrong; this module says it in words of the recipe, with place and way out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Set
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.recipe.corrections import correction, example, habit
from speculators.recipe.diagnostics import Diagnostic, diagnostic
from speculators.recipe.engine_rules import ORDINARY_ARGS, OWNED_ARGS
from speculators.recipe.positions import Mark, Path, Positions, dotted
from speculators.recipe.schema import SCHEMA_ID, case_values, load_schema, schema_at, schema_paths
from speculators.recipe.suggestions import did_you_mean, listing, nearest
from speculators.recipe.yaml_writer import inline_yaml

if TYPE_CHECKING:
    from jsonschema import ValidationError

TYPE_NAMES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a block of keys",
    "null": "null",
}

#: A pattern that is a word: the one text that a number may also be.
ONE_WORD = re.compile(r"\^(\w+)\$")


class Validation(NamedTuple):
    """``bad`` are paths that must not be used: wrong values, and keys that a misspelling stands for."""

    diagnostics: tuple[Diagnostic, ...]
    bad: frozenset[Path]


class Finding(NamedTuple):
    """What is wrong once: the path it spoils, its place and its words."""

    path: Path
    mark: Mark
    rule: str
    message: str
    hint: str = ""
    stands_for: tuple[Path, ...] = ()  # for an unknown key: what was probably meant
    beside: tuple[Path, ...] = ()  # further paths that it spoils


def validate(data: Any, positions: Positions, spoiled: Set[Path] = frozenset()) -> Validation:
    """Check ``data`` against the recipe schema; errors at or below ``spoiled`` paths are left out."""
    errors = [error for error in _validator().iter_errors(data) if not _within(_place(error), spoiled)]
    causes = _one_per_value(errors)
    findings = [found for error in causes for found in _explain(error, positions)]
    findings += _unfit_keys(causes, positions)
    meant = {path for found in findings for path in found.stands_for}
    lacking = (error for error in errors if error.validator == "required")
    findings += _missing(lacking, positions, meant, {found.path for found in findings})
    diagnostics = tuple(
        diagnostic("error", found.rule, found.message, found.mark, found.hint) for found in findings
    )
    bad = {path for found in findings for path in (found.path, *found.beside)}
    return Validation(diagnostics, frozenset(bad | meant | spoiled))


@cache
def _validator() -> Any:
    # jsonschema is a third of the time of a check: --help must not pay for it.
    from jsonschema import Draft7Validator
    from jsonschema.validators import extend

    def is_integer(_: Any, value: Any) -> bool:
        # The specification lets 6.0 pass for an integer; range() and vLLM do not.
        return isinstance(value, int) and not isinstance(value, bool)

    checker = Draft7Validator.TYPE_CHECKER.redefine("integer", is_integer)
    strict: Any = extend(Draft7Validator, type_checker=checker)  # type: ignore[no-untyped-call]
    return strict(load_schema())


def _path(error: ValidationError) -> Path:
    return tuple(error.absolute_path)


def _place(error: ValidationError) -> Path:
    """The path of the value at fault, or of the key that is."""
    return (*_path(error), str(error.instance)) if _about_key(error) else _path(error)


def _about_key(error: ValidationError) -> bool:
    return "propertyNames" in _schema_path(error)


def _schema_path(error: ValidationError) -> list[str | int]:
    return list(error.absolute_schema_path)


def _within(path: Path, spoiled: Set[Path]) -> bool:
    return any(path[:end] in spoiled for end in range(len(path) + 1))


def _one_per_value(errors: Iterable[ValidationError]) -> list[ValidationError]:
    """A value of the wrong type also misses every enum and bound: the first cause is enough."""
    kept: dict[tuple[Path, bool], ValidationError] = {}
    for error in sorted(errors, key=lambda error: error.validator != "type"):
        if error.validator in EXPLANATIONS:
            about_keys = error.validator == "additionalProperties"
            kept.setdefault((_place(error), about_keys), error)
    return list(kept.values())


def _explain(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    yield from EXPLANATIONS[str(error.validator)](error, positions)


def _show(value: Any) -> str:
    """A value as the recipe would write it, short enough for one line."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 60 else f"'{value[:57]}...'"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_keys(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    block = _path(error)
    schema: Any = error.schema
    instance: Any = error.instance
    for key in instance:
        if key not in schema["properties"]:
            yield _unknown_key((*block, key), set(schema["properties"]), positions)


def _unknown_key(path: Path, known: set[str], positions: Positions) -> Finding:
    *block, key = path
    where = f"in {dotted(tuple(block))}" if block else "at the top of the recipe"
    hint, meant = suggest_key(tuple(block), str(key), known)
    message = f"unknown key '{key}' {where}"
    return Finding(path, positions.key(path), "unknown-key", message, hint, meant)


def suggest_key(block: Path, key: str, known: set[str]) -> tuple[str, tuple[Path, ...]]:
    """A hint for an unknown ``key`` of ``block``, and the paths it may stand for."""
    homes = [path for path in schema_paths(load_schema()) if path[-1] == key]
    if homes:
        blocks = listing((f"'{dotted(path[:-1])}'" if path[:-1] else "the top" for path in homes), "or")
        return f"'{key}' belongs under {blocks}".replace("under the top", "at the top"), tuple(homes)
    if key in ORDINARY_ARGS - OWNED_ARGS.keys():
        return f"'{key}' is an argument of vLLM: those belong under 'engine.args'", ()
    if match := nearest(key, known):
        return f"did you mean '{match}'?{foreign_letters(key)}", ((*block, match),)
    return f"known keys: {', '.join(sorted(known))}", ()


def foreign_letters(key: str) -> str:
    """Names the characters of ``key`` that no key has: some look just like those that keys have."""
    names = dict.fromkeys(unicodedata.name(char, f"U+{ord(char):04X}") for char in key if not char.isascii())
    return f" here it has {listing(names)}" if names else ""


def _wrong_type(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    path = _path(error)
    wanted: Any = error.validator_value
    names = [TYPE_NAMES[name] for name in ([wanted] if isinstance(wanted, str) else wanted)]
    name = dotted(path) or "the recipe"
    hint = "'speculators show NAME' writes a recipe to start from, 'show --list' names them"
    if path:
        schema: Any = error.schema
        hint = correction(error.instance, schema, _validator().evolve(schema=schema).is_valid)
    message = f"{name} is {_show(error.instance)}, but must be {listing(names, 'or')}"
    yield Finding(path, positions.value(path), "wrong-type", message, hint)


def _bad_enum(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    if _about_key(error):
        return  # told by _unfit_keys, with its like
    path = _path(error)
    choices: list[str] = list(error.validator_value)  # type: ignore[arg-type]
    guess = habit(error.instance, choices) or did_you_mean(str(error.instance), choices)
    hint = f"{guess} one of: {', '.join(choices)}".strip()
    yield Finding(
        path, positions.value(path), "bad-value", f"{dotted(path)} is {_show(error.instance)}", hint
    )


def _unfit_keys(errors: Iterable[ValidationError], positions: Positions) -> Iterator[Finding]:
    """One finding for each block with keys of other cases of it: a changed kind leaves many at once."""
    unfit: dict[tuple[Path, int], list[str]] = {}
    for error in errors:
        block, key, steps = _path(error), str(error.instance), _schema_path(error)
        # A key that no case has is an unknown one, which is an error of its own.
        if error.validator == "enum" and _about_key(error) and key in _block(block)["properties"]:
            unfit.setdefault((block, int(steps[steps.index("then") - 1])), []).append(key)
    for (block, number), keys in unfit.items():
        cases: list[dict[str, Any]] = _block(block)["allOf"]
        case = cases[number]
        homes = [word for one in cases if set(keys) <= set(_case_keys(one)) for word in _case_words(one)]
        plural, names = "s" if len(keys) > 1 else "", listing(f"'{key}'" for key in keys)
        message = f"{dotted(block)} of {listing(_case_words(case), 'or')} has no key{plural} {names}"
        hint = f"known keys: {', '.join(key for key in _case_keys(case) if key not in case_values(case))}"
        if homes:
            have, them = "have" if len(homes) > 1 else "has", "them" if len(keys) > 1 else "it"
            hint = f"{listing(homes, 'and')} {have} {them}; {hint}"
        first, *others = ((*block, key) for key in keys)
        yield Finding(first, positions.key(first), "unfit-key", message, hint, beside=tuple(others))


def _block(path: Path) -> dict[str, Any]:
    return schema_at(load_schema(), path) or {}


def _case_keys(case: dict[str, Any]) -> list[str]:
    return list(case["then"]["propertyNames"]["enum"])


def _case_words(case: dict[str, Any]) -> list[str]:
    return [f"{name} '{value}'" for name, values in case_values(case).items() for value in values]


def _bad_const(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    path = _path(error)
    message = f"this version reads '{SCHEMA_ID}', not {_show(error.instance)}"
    hint = f"write 'schema: {SCHEMA_ID}', or install the version of speculators that the recipe was made for"
    yield Finding(path, positions.value(path), "schema-version", message, hint)


def _out_of_bounds(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    path = _path(error)
    text = BOUNDS[str(error.validator)].format(limit=error.validator_value)
    message = f"{dotted(path)} is {_show(error.instance)}, but must {text}"
    yield Finding(path, positions.value(path), "bad-value", message)


def _bad_pattern(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    path = _path(error)
    if _about_key(error):
        yield from _bad_key_name(error, positions)
        return
    schema: Any = error.schema
    message, hint = f"{dotted(path)} is {_show(error.instance)}", example(schema)
    if word := ONE_WORD.fullmatch(str(error.validator_value)):
        others = [TYPE_NAMES[name] for name in schema["type"] if name != "string"]
        message += f", but must be {listing([*others, repr(word[1])], 'or')}"
    else:
        message += f", which does not match {error.validator_value}"
    yield Finding(path, positions.value(path), "bad-value", message, hint)


def _bad_key_name(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    path = (*_path(error), str(error.instance))
    plain = str(error.instance).lstrip("-").replace("-", "_").lower()
    hint = f"write '{plain}'" if plain != error.instance and plain.isidentifier() else ""
    message = f"'{error.instance}' cannot be a name in {dotted(_path(error))}"
    yield Finding(path, positions.key(path), "bad-name", message, hint)


def _repeats(error: ValidationError, positions: Positions) -> Iterator[Finding]:
    path = _path(error)
    items: Any = error.instance
    number = next(n for n, item in enumerate(items) if item in items[:n])
    message = f"{dotted(path)} has the item {_show(items[number])} twice"
    yield Finding(path, positions.value((*path, number)), "bad-value", message)


def _missing(
    errors: Iterable[ValidationError], positions: Positions, meant: Set[Path], wrong: Set[Path]
) -> Iterator[Finding]:
    """One finding for each block that lacks keys, unless a misspelt key stands for them.

    ``meant``: what misspelt keys stand for; ``wrong``: the paths of the other findings.
    """
    wanted: dict[Path, dict[str, None]] = {}
    for error in errors:
        block = _path(error)
        # jsonschema reports each missing key apart, and the required list as a whole.
        required: Any = error.validator_value
        present: Any = error.instance
        names = [name for name in required if name not in present]
        if "else" in error.absolute_schema_path and ("draft",) in meant:
            continue
        if not block and ("extends",) in wrong:
            continue  # what the parent would have said is not known
        wanted.setdefault(block, {}).update(dict.fromkeys(n for n in names if (*block, n) not in meant))
    for block, missing in wanted.items():
        if missing:
            where = dotted(block) or "the recipe"
            plural = "s" if len(missing) > 1 else ""
            keys = listing(f"'{name}'" for name in missing)
            message = f"{where} lacks the key{plural} {keys}"
            hint = next((words for key, words in MISSING_HINTS.items() if key in missing), "")
            hint = hint or _examples(block, missing)
            yield Finding((*block, next(iter(missing))), positions.key(block), "missing-key", message, hint)


def _examples(block: Path, names: Iterable[str]) -> str:
    """What the schema gives as examples of keys of ``block``."""
    keys = _block(block).get("properties", {})
    shown = {name: keys[name]["examples"][0] for name in names if "examples" in keys[name]}
    return f"for example: {inline_yaml(shown)[1:-1]}" if shown else ""


MISSING_HINTS = {
    "schema": f"begin the file with 'schema: {SCHEMA_ID}'",
    "algorithm": "or bring a trained draft with 'draft:', or measure without one: algorithm: {kind: ngram}",
}

BOUNDS = {
    "minimum": "be at least {limit}",
    "maximum": "be at most {limit}",
    "exclusiveMinimum": "be greater than {limit}",
    "exclusiveMaximum": "be less than {limit}",
    "minLength": "not be empty",
    "maxLength": "have at most {limit} characters",
    "minItems": "have at least {limit} item",
    "maxItems": "have at most {limit} items",
}

EXPLANATIONS: dict[str, Callable[[ValidationError, Positions], Iterator[Finding]]] = {
    "additionalProperties": _unknown_keys,
    "type": _wrong_type,
    "enum": _bad_enum,
    "const": _bad_const,
    "pattern": _bad_pattern,
    "uniqueItems": _repeats,
    **dict.fromkeys(BOUNDS, _out_of_bounds),
}
