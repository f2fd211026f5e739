"""Wrappers that put a prefix before the names of a network's weights."""

from collections.abc import Collection

WRAPPERS = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}
"""Prefix of the names, by which wrapper."""


def wrapper_prefix(names: Collection[str], expected: Collection[str]) -> str:
    """Return what wrappers have put before the names of a network's weights; "": nothing.

    Args:
        names: of a state dict.
        expected: of the network without a wrapper.

    Returns:
        The prefix without which `names` are all `expected`.

    >>> wrapper_prefix(["module._orig_mod.0.weight"], ["0.weight"])
    'module._orig_mod.'
    >>> wrapper_prefix(["module.0.weight", "1.weight"], ["0.weight", "1.weight"])
    ''
    """
    prefix, wanted = "", set(expected)
    while names and set(names) != wanted:
        found = next((each for each in WRAPPERS if all(n.startswith(each) for n in names)), None)
        if found is None:
            return ""
        prefix, names = prefix + found, [name.removeprefix(found) for name in names]
    return prefix


def unwrapping(name: str) -> str:
    """Return how to be rid of the wrapper that a weight's name tells of, or "".

    >>> unwrapping("module.0.weight")
    " (DistributedDataParallel's prefix: send the state dict of what it wraps)"
    >>> unwrapping("0.weight")
    ''
    """
    wrapper = next((kind for prefix, kind in WRAPPERS.items() if name.startswith(prefix)), None)
    return "" if wrapper is None else f" ({wrapper}'s prefix: send the state dict of what it wraps)"
