"""Plain data -> YAML text that reads back the same under YAML 1.1 and 1.2.

PyYAML quotes what YAML 1.1 would misread (``off``, ``012``); words that only YAML 1.2 takes for
numbers (``1e-3``, ``0o17``) need quotes as well.
"""

from __future__ import annotations

from typing import Any

import yaml

from speculators.recipe.yaml_scalars import is_plain_string


class _Dumper(yaml.SafeDumper):
    """Block style without anchors; short lists of scalars stay on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if is_plain_string(value) and value != "<<" else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    flow = not any(isinstance(item, dict | list) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flow)


_Dumper.add_representer(str, _string)
_Dumper.add_representer(list, _list)


def dump_yaml(data: Any) -> str:
    """``data`` as YAML, keys in their given order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def inline_yaml(data: Any) -> str:
    """``data`` as YAML within a line."""
    text: str = yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True,
        width=float("inf"),
    )
    return text.removesuffix("...\n").rstrip("\n")
