"""Per-path α0: validation of `alpha0_at` patterns and their resolution for module paths.

Independent of torch, because `Norm` is used in configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from dyt.path_patterns import matches
from dyt.validation import check_alpha0

T = TypeVar("T")

Alpha0Patterns = tuple[tuple[str, float], ...]
"""(pattern, α0) pairs; the first pattern that matches a path takes precedence."""


def resolve_alpha0(patterns: Alpha0Patterns, default: T, path: str) -> float | T:
    """Return the α0 of the first pattern that matches a module path, or the default."""
    return next((alpha0 for pattern, alpha0 in patterns if matches(pattern, path)), default)


def resolve_shared_alpha0(
    patterns: Alpha0Patterns, default: float, paths: tuple[str, ...]
) -> float:
    """Return the α0 of one layer that is reachable by several paths.

    Raises:
        ValueError: the patterns give different paths of the layer a different α0.
    """
    values = {resolve_alpha0(patterns, default, path) for path in paths}
    if len(values) > 1:
        raise ValueError(
            f"{' = '.join(paths)} is one shared layer, but alpha0_at assigns it"
            f" {' and '.join(f'{v:g}' for v in sorted(values))}. Use one pattern for all its paths."
        )
    return values.pop()


def check_patterns_used(patterns: Alpha0Patterns, layer_paths: Sequence[tuple[str, ...]]) -> None:
    """Raise ValueError for a pattern that sets the α0 of no layer, most likely a typing error.

    Args:
        patterns: the `alpha0_at` of a `Norm`.
        layer_paths: for each layer, all paths that lead to it.
    """
    unused = [pattern for pattern, _ in patterns]
    for path in (path for paths in layer_paths for path in paths):
        used = next((pattern for pattern, _ in patterns if matches(pattern, path)), None)
        unused = [pattern for pattern in unused if pattern != used]
    if unused:
        raise ValueError(
            f"alpha0_at pattern {unused[0]!r} sets the α0 of no layer: either nothing matches it"
            " or an earlier pattern always takes precedence. The layers are"
            f" {', '.join(paths[0] for paths in layer_paths)}."
        )


def check_alpha0_patterns(value: object) -> Alpha0Patterns:
    """Return (pattern, α0) pairs as tuples, also from the lists or dict of a JSON config.

    Raises:
        ValueError: `value` is not a list of pairs of a glob and a positive finite number.
    """
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, (list, tuple)):
        raise ValueError(f"alpha0_at = {value!r} is not a list of (pattern, α0) pairs.")
    checked = []
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2):
            raise ValueError(f"alpha0_at has {pair!r} where a (pattern, α0) pair was expected.")
        pattern, alpha0 = pair
        if not (isinstance(pattern, str) and pattern):
            raise ValueError(
                f"alpha0_at has {pattern!r} where a glob of module paths was expected, such as"
                " '*.attention_norm'."
            )
        checked.append((pattern, check_alpha0(f"alpha0_at[{pattern!r}]", alpha0)))
    return tuple(checked)
