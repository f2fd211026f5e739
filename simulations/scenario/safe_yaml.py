"""YAML as scenarios and the command line have it, from anybody: bounded, and every key once.

PyYAML's safe loader runs no code, but a few bytes of aliases become gigabytes, the last of two
equal keys wins without a word, and `.inf` passes for a number.
"""

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

MAX_BYTES = 1_000_000
"""A scenario has a few thousand."""
MAX_DEPTH = 20
"""Mappings and lists inside each other."""
MAX_NODES = 20_000
"""Keys and values in all."""
MAX_INTEGER = 2**63 - 1
"""Largest absolute value of a whole number."""


class UnsafeYamlError(ValueError):
    """A text is no YAML, or not what is accepted of it; the message is one line."""


def read_yaml(text: str) -> Any:
    """Return what a text of YAML holds.

    Raises:
        UnsafeYamlError: if it is not valid YAML, holds an alias, a merge key, a key twice or one
            that is no text, a number that is infinite, NaN or beyond 64 bits, or is too large.
    """
    if len(text) > MAX_BYTES:
        raise UnsafeYamlError(f"must have at most {MAX_BYTES} characters, got {len(text)}")
    try:
        # A subclass of the safe loader: it makes numbers, text, lists and mappings alone.
        return yaml.load(text, Loader=_BoundedLoader)
    except UnsafeYamlError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, RecursionError, OverflowError) as error:
        raise UnsafeYamlError(f"not valid YAML: {' '.join(str(error).split())[:300]}") from error


def read_yaml_file(path: Path) -> Any:
    """Return what a file of YAML holds; its size is looked at before it is read.

    Raises:
        UnsafeYamlError: as `read_yaml`, or if it cannot be read, is no file, or no text.
    """
    try:
        if path.exists() and not path.is_file():
            raise UnsafeYamlError("is no file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnsafeYamlError(f"must have at most {MAX_BYTES} bytes, got {size}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UnsafeYamlError("is no text in UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnsafeYamlError(f"cannot be read ({reason})") from error
    return read_yaml(text)


class _BoundedLoader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Refuse aliases, depth and size while the tree grows."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event, "an alias (*) is not accepted; write the value again")
        self._nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _refusal(
                event, f"too large: at most {MAX_NODES} values, {MAX_DEPTH} inside each other"
            )
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse keys that stand twice or are no text."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:str":
                raise _refusal(key_node, f"a key must be text, got {str(key)[:40]!r}; quote it")
            if key in seen:
                raise _refusal(key_node, f"the key {key[:40]!r} stands here twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: ScalarNode) -> int | float:
        """Refuse numbers that are none."""
        is_float = node.tag.endswith("float")
        read = self.construct_yaml_float if is_float else self.construct_yaml_int
        number: int | float = read(node)
        if not math.isfinite(number) or (not is_float and abs(number) > MAX_INTEGER):
            raise _refusal(node, f"{node.value[:40]!r} is no number that can be computed with")
        return number


for _kind in ("int", "float"):
    _BoundedLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _BoundedLoader.construct_number)


def _refusal(at: Any, reason: str) -> UnsafeYamlError:
    return UnsafeYamlError(f"line {at.start_mark.line + 1}: {reason}")
