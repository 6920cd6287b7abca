"""Says which norm layer a network gets, in plain values, so that a config needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, Literal, get_args

Layer = Literal["own", "dyt", "layernorm", "batchnorm"]
Squash = Literal["tanh", "hardtanh", "sigmoid", "identity", "erf"]
Alpha = Literal["learnable", "absent"]

ALPHA0 = 0.5  # CVPR 2025; all models but LLaMA


@dataclass(frozen=True, kw_only=True)
class Norm:
    """The norm layer of one arm of a comparison.

    DyT(x) = γ·tanh(αx) + β ("Transformers without Normalization", CVPR 2025; ICLR 2025 submission,
    Eq. 1), one of its ablations, Derf(x) = γ·erf(αx + s) + β ("Stronger Normalization-Free
    Transformers", arXiv 2512.10938), LN or BN in the place of the other (ICLR 2025 submission,
    Table 11), or the network's own layer.

    Fields:
        layer: "dyt", "layernorm", "batchnorm", or "own" for the network's own normalization.
            All but "dyt" reset every other field, so that all norms of one kind are equal.
        alpha0: the initial α, a positive number.
        alpha0_at: (pattern, α0) pairs for parts of the network; the first pattern that matches a
            module's path wins, and `alpha0` is for the rest. A pattern is a glob, `*` crosses
            dots, and it matches a path by the path itself or by any of its parents. LLaMA has
            attention apart from the rest: (("*.input_layernorm", 0.8),) with alpha0 = 0.2.
        squash: the bounded function. All but tanh and erf are ablations (CVPR 2025, Table 8).
        alpha: "learnable", or "absent" for γ·squash(x) + β (CVPR 2025, Table 9), where α0 has no
            meaning.
        shift0: the initial s, only for squash="erf".

    Raises:
        ValueError: a name that is not one of those above, an α0 that is not a positive finite
            number, or a shift0 without erf.
    """

    layer: Layer = "dyt"
    alpha0: float = ALPHA0
    alpha0_at: tuple[tuple[str, float], ...] = ()
    squash: Squash = "tanh"
    alpha: Alpha = "learnable"
    shift0: float = 0.0

    def __post_init__(self) -> None:
        check_choice("layer", self.layer, get_args(Layer))
        check_choice("squash", self.squash, get_args(Squash))
        check_choice("alpha", self.alpha, get_args(Alpha))
        values: dict[str, Any] = {
            "alpha0": check_alpha0("alpha0", self.alpha0),
            "alpha0_at": _check_rules(self.alpha0_at),
            "shift0": check_number("shift0", self.shift0),
        }
        if self.layer != "dyt":
            values = dict(_OF_DYT)
        elif self.alpha == "absent":
            values.update(alpha0=ALPHA0, alpha0_at=())
        if values["shift0"] and self.squash != "erf":
            raise ValueError(
                f"shift0 = {self.shift0} has no place in squash = {self.squash!r}: only erf is"
                " shifted. Set squash='erf' or leave shift0 at 0."
            )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def own(cls) -> Norm:
        """The network's own normalization: the arm to compare with."""
        return cls(layer="own")

    @classmethod
    def dyt(cls, alpha0: float = ALPHA0, **options: Any) -> Norm:
        """Dynamic Tanh, or an ablation of it through squash= and alpha=."""
        return cls(layer="dyt", alpha0=alpha0, **options)

    @classmethod
    def derf(cls, alpha0: float = ALPHA0, shift0: float = 0.0, **options: Any) -> Norm:
        """Dynamic erf with a learnable shift (arXiv 2512.10938; α0 = 0.5, s0 = 0 there too)."""
        return cls(layer="dyt", squash="erf", alpha0=alpha0, shift0=shift0, **options)

    @classmethod
    def layer_norm(cls) -> Norm:
        """LN, with torch's eps; a site that has a LN keeps it (ICLR 2025 submission, Table 11)."""
        return cls(layer="layernorm")

    @classmethod
    def batch_norm(cls) -> Norm:
        """BN, with torch's eps and momentum; a site that has a BN keeps it (Table 11, too)."""
        return cls(layer="batchnorm")

    def alpha0_for(self, path: str) -> float:
        """The initial α of the layer at this module path, such as "blocks.0.norm1"."""
        return next((a for pattern, a in self.alpha0_at if matches(pattern, path)), self.alpha0)

    def __str__(self) -> str:
        if self.layer in _LABELS:
            return _LABELS[self.layer]
        notes = [] if self.squash in ("tanh", "erf") else [self.squash]
        if self.alpha == "absent":
            notes.append("no α")
        else:
            notes.append(f"α0={self.alpha0:g}")
            notes += [f"{pattern}: {value:g}" for pattern, value in self.alpha0_at]
        if self.shift0:
            notes.append(f"s0={self.shift0:g}")
        return f"{'Derf' if self.squash == 'erf' else 'DyT'}({', '.join(notes)})"


_LABELS = {"own": "own", "layernorm": "LN", "batchnorm": "BN"}

# The fields that mean nothing to the other layers, as they are then.
_OF_DYT = {
    "alpha0": ALPHA0,
    "alpha0_at": (),
    "squash": "tanh",
    "alpha": "learnable",
    "shift0": 0.0,
}


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a module path or one of the modules that hold it.

    "encoder" matches "encoder.layers.0.norm1", as does "enc*" or "*.norm1": whoever names a
    module means what is inside it too.
    """
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of the names in `choices`."""
    if not (isinstance(value, str) and value in choices):
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name} = {value!r} is unknown. Use one of {expected}.")


def check_number(name: str, value: object) -> float:
    """`value` as a float; ValueError unless it is a finite number (a bool is none)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(
            f"{name} = {value!r} is not a finite number. Pass an int or a float, such as 0.5."
        )
    return float(value)


def check_alpha0(name: str, value: object) -> float:
    """`value` as a float; ValueError unless it is a positive finite number."""
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(
            f"{name} = {value!r} is not positive, and tanh(αx) would start flat or flipped."
            " Pass a positive number, such as 0.5, or alpha='absent' for a layer without α."
        )
    return number


def _check_rules(rules: object) -> tuple[tuple[str, float], ...]:
    """The (pattern, α0) pairs as tuples: a config read from JSON brings lists or a dict."""
    pairs = list(rules.items()) if isinstance(rules, Mapping) else rules
    if not isinstance(pairs, (list, tuple)):
        raise ValueError(f"alpha0_at = {rules!r} is no list of (pattern, α0) pairs.")
    checked = []
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2):
            raise ValueError(f"alpha0_at has {pair!r} where a (pattern, α0) pair was expected.")
        pattern, value = pair
        if not (isinstance(pattern, str) and pattern):
            raise ValueError(
                f"alpha0_at has {pattern!r} where a glob of module paths was expected, such as"
                " '*.attention_norm'."
            )
        checked.append((pattern, check_alpha0(f"alpha0_at[{pattern!r}]", value)))
    return tuple(checked)
