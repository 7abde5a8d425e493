"""Prompt files in Parquet, as datasets on the Hub keep them.

Arrow gives every message every field that any of them has, empty where a row had none: what is empty is left
out again, so that a row reads as its JSON line would.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speculators.errors import MachineError, RecipeError

__all__ = ["is_parquet", "parquet_rows", "read_parquet"]


def is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def parquet_rows(path: Path) -> int:
    """How many rows the file says it has.

    Raises:
        MachineError: pyarrow is not installed.
        RecipeError: it is no Parquet file.
    """
    count: int = _opened(path).metadata.num_rows
    return count


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the file as JSON objects, in order.

    Raises:
        MachineError: pyarrow is not installed.
        RecipeError: it is no Parquet file.
    """
    for batch in _opened(path).iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            yield _filled(row)


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MachineError(
            f"{path}: a Parquet file, and pyarrow is not installed",
            hint="pip install pyarrow",
            rule="package",
        ) from error
    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise RecipeError(
            f"{path}: cannot be read: {error}", hint="fetch it again", rule="prompts"
        ) from error


def _filled(value: Any) -> Any:
    """``value`` without empty fields; an answer that is only a call has no content, and says so."""
    if isinstance(value, dict):
        return {name: _filled(one) for name, one in value.items() if one is not None or name == "content"}
    return [_filled(one) for one in value] if isinstance(value, list) else value
