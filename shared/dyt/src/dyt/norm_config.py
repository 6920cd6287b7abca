"""`Norm`: configuration of the norm layer of a network, in plain values and without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from dyt.per_path_alpha0 import check_alpha0_patterns, resolve_alpha0
from dyt.validation import check_alpha0, check_choice, check_number

Layer = Literal["own", "dyt", "layernorm", "batchnorm"]
Squash = Literal["tanh", "hardtanh", "sigmoid", "identity", "erf"]
Alpha = Literal["learnable", "fixed", "absent"]

ALPHA0 = 0.5  # CVPR 2025; all models except LLaMA
CALIBRATED = "calibrated"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """The norm layer of one arm of a comparison.

    One of:
    - DyT(x) = γ·tanh(αx) + β ("Transformers without Normalization", CVPR 2025; ICLR 2025
      submission, Eq. 1) or one of its ablations
    - Derf(x) = γ·erf(αx + s) + β ("Stronger Normalization-Free Transformers", arXiv 2512.10938)
    - LN or BN, each as a replacement of the other (ICLR 2025 submission, Table 11)
    - the network's own layer

    Attributes:
        layer: "dyt", "layernorm", "batchnorm", or "own" for the network's own normalization.
            All but "dyt" reset every other field, so all norms of one such kind are equal.
        alpha0: the initial α, a positive number, or "calibrated": `convert` then requires data to
            fit α of each layer on (its argument `calibrate`).
        alpha0_at: (pattern, α0) pairs for parts of the network. The first pattern that matches a
            module's path takes precedence; `alpha0` applies to all other layers. A pattern is a
            glob whose `*` crosses dots, and it matches a path if it matches the path itself or
            any of its parents. LLaMA uses a different α0 before attention:
            (("*.input_layernorm", 0.8),) with alpha0 = 0.2.
        squash: the bounded function. All but tanh and erf are ablations (CVPR 2025, Table 8).
        alpha: "learnable", "fixed" for an α that stays at α0, or "absent" for γ·squash(x) + β
            (CVPR 2025, Table 9), where α0 has no meaning.
        shift0: the initial s, only for squash="erf".

    Raises:
        ValueError: a name that is not listed above, an α0 that is not a positive finite number,
            or a shift0 without erf.
    """

    layer: Layer = "dyt"
    alpha0: float | Literal["calibrated"] = ALPHA0
    alpha0_at: tuple[tuple[str, float], ...] = ()
    squash: Squash = "tanh"
    alpha: Alpha = "learnable"
    shift0: float = 0.0

    def __post_init__(self) -> None:
        check_choice("layer", self.layer, get_args(Layer))
        check_choice("squash", self.squash, get_args(Squash))
        check_choice("alpha", self.alpha, get_args(Alpha))
        values: dict[str, Any] = {
            "alpha0": self.alpha0
            if self.alpha0 == CALIBRATED
            else check_alpha0("alpha0", self.alpha0),
            "alpha0_at": check_alpha0_patterns(self.alpha0_at),
            "shift0": check_number("shift0", self.shift0),
        }
        if self.layer != "dyt":
            values = dict(_DYT_ONLY_FIELDS)
        elif self.alpha == "absent":
            values.update(alpha0=ALPHA0, alpha0_at=())
        if values["shift0"] and self.squash != "erf":
            raise ValueError(
                f"shift0 = {self.shift0} is not supported with squash = {self.squash!r}: only erf"
                " has a shift. Set squash='erf' or leave shift0 at 0."
            )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def own(cls) -> Norm:
        """Return the network's own normalization, the baseline arm."""
        return cls(layer="own")

    @classmethod
    def dyt(cls, alpha0: float | Literal["calibrated"] = ALPHA0, **options: Any) -> Norm:
        """Return Dynamic Tanh, or one of its ablations through squash= and alpha=."""
        return cls(layer="dyt", alpha0=alpha0, **options)

    @classmethod
    def derf(
        cls,
        alpha0: float | Literal["calibrated"] = ALPHA0,
        shift0: float = 0.0,
        **options: Any,
    ) -> Norm:
        """Return Dynamic erf with a learnable shift; arXiv 2512.10938 uses the same defaults."""
        return cls(layer="dyt", squash="erf", alpha0=alpha0, shift0=shift0, **options)

    @classmethod
    def layer_norm(cls) -> Norm:
        """Return LN with torch's eps (ICLR 2025 submission, Table 11).

        A layer that is a LN already is kept unchanged.
        """
        return cls(layer="layernorm")

    @classmethod
    def batch_norm(cls) -> Norm:
        """Return BN with torch's eps and momentum (ICLR 2025 submission, Table 11).

        A layer that is a BN already is kept unchanged.
        """
        return cls(layer="batchnorm")

    @property
    def calibrated(self) -> bool:
        """True if `convert` fits α to data."""
        return self.alpha0 == CALIBRATED

    def uncalibrated(self) -> Norm:
        """Return the norm with a number as α0, for a network into which α is loaded afterwards."""
        return replace(self, alpha0=ALPHA0) if self.calibrated else self

    def alpha0_for(self, path: str) -> float:
        """Return the initial α of the layer at a module path, such as "blocks.0.norm1".

        Raises:
            ValueError: α0 is calibrated, and no path pattern sets that of this layer.
        """
        alpha0 = resolve_alpha0(self.alpha0_at, self.alpha0, path)
        if isinstance(alpha0, str):
            raise ValueError(f"α0 of {path!r} is calibrated: the report of convert has it.")
        return alpha0

    def __str__(self) -> str:
        if self.layer in _LABELS:
            return _LABELS[self.layer]
        notes: list[str] = [] if self.squash in ("tanh", "erf") else [self.squash]
        if self.alpha == "absent":
            notes.append("no α")
        elif self.calibrated:
            notes.append(CALIBRATED)
        else:
            notes.append(f"{'α' if self.alpha == 'fixed' else 'α0'}={self.alpha0:g}")
            notes += [f"{pattern}: {value:g}" for pattern, value in self.alpha0_at]
        if self.shift0:
            notes.append(f"s0={self.shift0:g}")
        return f"{'Derf' if self.squash == 'erf' else 'DyT'}({', '.join(notes)})"


_LABELS = {"own": "own", "layernorm": "LN", "batchnorm": "BN"}

# Fields that have no meaning for other layers, with the values they are reset to there.
_DYT_ONLY_FIELDS = {
    "alpha0": ALPHA0,
    "alpha0_at": (),
    "squash": "tanh",
    "alpha": "learnable",
    "shift0": 0.0,
}
