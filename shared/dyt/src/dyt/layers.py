"""The layers that replace a norm layer: Dynamic Tanh, Dynamic erf and their ablations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from dyt.backends.reference import SQUASHES, formula
from dyt.functional import KERNEL_SQUASHES, compute
from dyt.norm_config import ALPHA0, Alpha, Squash
from dyt.validation import check_alpha0, check_choice, check_number

if TYPE_CHECKING:
    from typing import Self


class _Dynamic(nn.Module):
    """Element-wise γ·squash(αx + s) + β, the base class of all layers of this module."""

    if TYPE_CHECKING:  # TorchScript cannot read these annotations
        alpha: Tensor | None
        shift: nn.Parameter | None
        weight: nn.Parameter | None
        bias: nn.Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None,
        alpha0: float,
        shift0: float | None,
        *,
        affine: bool,
        bias: bool,
        channel_axis: int,
        eps: float | None,
        elementwise_affine: bool | None,
        squash: Squash,
        alpha: Alpha,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_choice("squash", squash, SQUASHES)
        check_choice("alpha", alpha, get_args(Alpha))
        if eps is not None:
            check_number("eps", eps)  # accepted like nn.LayerNorm's, and without effect
        affine = affine if elementwise_affine is None else elementwise_affine
        self.normalized_shape = _check_shape(normalized_shape, affine)
        self.channel_axis = check_axis(channel_axis, self.normalized_shape)
        self.squash = squash
        self.alpha0 = check_alpha0("alpha0", alpha0)
        self.shift0 = None if shift0 is None else check_number("shift0", shift0)

        def parameter(shape: Sequence[int], present: bool) -> nn.Parameter | None:
            if not present:
                return None
            return nn.Parameter(torch.empty(tuple(shape), device=device, dtype=dtype))

        # α and s have shape (1,), not (): FSDP cannot shard a parameter without dimensions.
        width = self.normalized_shape or ()
        if alpha == "fixed":
            self.register_buffer("alpha", torch.empty(1, device=device, dtype=dtype))
        else:
            self.register_parameter("alpha", parameter((1,), alpha == "learnable"))
        self.register_parameter("shift", parameter((1,), shift0 is not None))
        self.register_parameter("weight", parameter(width, affine))
        self.register_parameter("bias", parameter(width, affine and bias))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set α to α0, s to s0, γ to 1 and β to 0. Draws no random number."""
        starts = {"alpha": self.alpha0, "shift": self.shift0, "weight": 1.0, "bias": 0.0}
        for name, start in starts.items():
            if (parameter := getattr(self, name)) is not None and start is not None:
                nn.init.constant_(parameter, start)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, *normalized_shape), or (B, C, …) with channel_axis=1, to the same shape.

        Raises:
            ValueError: x does not have the layer's width.
        """
        if torch.jit.is_scripting():
            parameters = (self.alpha, self.shift, self.weight, self.bias)
            return formula(x, *parameters, self.squash, self.channel_axis)
        return self._forward(x)

    @torch.jit.unused
    def _forward(self, x: Tensor) -> Tensor:
        """Compute the output outside of TorchScript."""
        parameters = self._read_parameters(x)
        without_kernel = parameters[0] is None or self.squash not in KERNEL_SQUASHES
        function: Any = formula if without_kernel else compute
        arguments = (x, *parameters, self.squash, self.channel_axis)
        if isinstance(x, torch.fx.Proxy):  # one node in the graph, which calls the kernel
            return x.tracer.create_proxy("call_function", function, arguments, {})
        if self.normalized_shape is not None:
            check_width(self, x, self.normalized_shape, self.channel_axis)
        if not x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} takes real floating-point numbers, but its input has dtype"
                f" {x.dtype}. Convert it first, as with x.float()."
            )
        return function(*arguments)

    def _read_parameters(self, x: Tensor) -> tuple[Tensor | None, ...]:
        """Return α, s, γ and β.

        An attribute of nn.Module takes half a microsecond, and its dict a tenth of that. The dict
        lacks parameters that are buffers or, as by torch.nn.utils.parametrize, computed.
        """
        if type(x) is Tensor and not torch.compiler.is_compiling():
            own = self._parameters
            try:
                return own["alpha"], own["shift"], own["weight"], own["bias"]
            except KeyError:
                pass
        return self.alpha, self.shift, self.weight, self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply `fn` to all tensors; `to_empty` from the meta device also initializes them.

        Initialization code of other libraries covers the layers it knows, and would leave these
        undefined.
        """
        on_meta = self._on_meta()
        super()._apply(fn, recurse)
        if on_meta and not self._on_meta():
            self.reset_parameters()
        return self

    def _on_meta(self) -> bool:
        tensors = (self.alpha, self.shift, self.weight, self.bias)
        return any(tensor is not None and tensor.is_meta for tensor in tensors)

    def extra_repr(self) -> str:
        shape = "any width" if self.normalized_shape is None else _join(self.normalized_shape)
        notes = [shape, f"alpha0={self.alpha0:g}" if self.alpha is not None else "alpha='absent'"]
        if "alpha" in self._buffers:
            notes.append("alpha='fixed'")
        if self.shift is not None:
            notes.append(f"shift0={self.shift0:g}")
        elif self.squash != "tanh":
            notes.append(f"squash={self.squash!r}")
        if self.weight is None:
            notes.append("affine=False")
        elif self.bias is None:
            notes.append("bias=False")
        if self.channel_axis != -1:
            notes.append(f"channel_axis={self.channel_axis}")
        return ", ".join(notes)


class DyT(_Dynamic):
    """DyT(x) = γ·tanh(αx) + β ("Transformers without Normalization", CVPR 2025; ICLR 2025
    submission, Eq. 1).

    Shapes: input and output (…, *normalized_shape), or (B, C, …) with channel_axis=1. Parameters
    `alpha` (1,), `weight` and `bias` of `normalized_shape`: the names and shapes of the authors'
    checkpoints, which load strictly.

    Precision: ordinary type promotion, without any cast. With float32 parameters the output is
    float32 even for a bfloat16 input, like that of nn.LayerNorm under CUDA autocast, and the next
    matrix product casts it down again; in a network entirely in bfloat16 the output is bfloat16.
    Unlike LN, DyT sums nothing, so no intermediate result needs float32.

    Args:
        normalized_shape: the width C, or trailing sizes as for nn.LayerNorm; None, for a layer
            of any width, only with affine=False.
        alpha0: the initial α.
        affine: False omits γ and β (DiT).
        bias: False omits β (as a replacement of RMSNorm, as in LLaMA).
        channel_axis: -1, or 1 for inputs such as NCHW.
        eps: ignored, as DyT divides by nothing; accepted so that DyT can be passed where a network
            takes a norm class, as in partial(DyT, eps=1e-6).
        elementwise_affine: nn.LayerNorm's name of `affine`, which it overrides.
        squash: "tanh", or an ablation: "hardtanh", "sigmoid", "identity" (CVPR 2025, Table 8),
            or "erf" without a shift (`Derf` has the shift).
        alpha: "learnable", "fixed" for a buffer that stays at α0, or "absent" for γ·tanh(x) + β
            (CVPR 2025, Table 9).

    Raises:
        ValueError: an argument is not one of the above.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None,
        alpha0: float = ALPHA0,
        *,
        affine: bool = True,
        bias: bool = True,
        channel_axis: int = -1,
        eps: float | None = None,
        elementwise_affine: bool | None = None,
        squash: Squash = "tanh",
        alpha: Alpha = "learnable",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            normalized_shape,
            alpha0,
            None,
            affine=affine,
            bias=bias,
            channel_axis=channel_axis,
            eps=eps,
            elementwise_affine=elementwise_affine,
            squash=squash,
            alpha=alpha,
            device=device,
            dtype=dtype,
        )


class Derf(_Dynamic):
    """Derf(x) = γ·erf(αx + s) + β ("Stronger Normalization-Free Transformers", arXiv 2512.10938).

    Same as `DyT`, with an additional learnable scalar `shift` of shape (1,). The authors
    use α0 = 0.5 and s0 = 0, and their checkpoints load strictly.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None,
        alpha0: float = ALPHA0,
        shift0: float = 0.0,
        *,
        affine: bool = True,
        bias: bool = True,
        channel_axis: int = -1,
        eps: float | None = None,
        elementwise_affine: bool | None = None,
        alpha: Alpha = "learnable",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            normalized_shape,
            alpha0,
            shift0,
            affine=affine,
            bias=bias,
            channel_axis=channel_axis,
            eps=eps,
            elementwise_affine=elementwise_affine,
            squash="erf",
            alpha=alpha,
            device=device,
            dtype=dtype,
        )


DynamicTanh = DyT
DynamicErf = Derf
"""Names of these layers in the authors' releases."""


_OTHER_LAYOUT_HINTS = {
    -1: "For channels at axis 1, as in NCHW, build the layer with channel_axis=1.",
    1: "For channels last, build a layer with channel_axis=-1, or nn.LayerNorm.",
}


def check_width(layer: nn.Module, x: Tensor, shape: tuple[int, ...], channel_axis: int) -> None:
    """Raise ValueError unless the channels of x, at `channel_axis`, have the given shape."""
    if channel_axis == 1:
        fits = x.ndim >= 2 and x.shape[1] == shape[0]
    else:
        fits = x.shape[-len(shape) :] == shape
    if not fits:
        expected = f"(B, {shape[0]}, …)" if channel_axis == 1 else f"(…, {_join(shape)})"
        raise ValueError(
            f"{type(layer).__name__} of width {_join(shape)} got an input of shape"
            f" {tuple(x.shape)}, but expects {expected}. {_OTHER_LAYOUT_HINTS[channel_axis]}"
        )


def _check_shape(shape: object, affine: bool) -> tuple[int, ...] | None:
    if shape is None and not affine:
        return None
    sizes = tuple(shape) if isinstance(shape, (list, tuple)) else (shape,)
    positive = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes)
    if not (sizes and positive):
        raise ValueError(
            f"normalized_shape = {shape!r} is not a width. Pass a positive int or a non-empty"
            " sequence of positive ints (None is only supported with affine=False)."
        )
    return sizes


def check_axis(axis: int, shape: tuple[int, ...] | None) -> int:
    """Return `axis` if it is -1, or 1 with a single width; raise ValueError otherwise."""
    if axis not in (-1, 1) or isinstance(axis, bool):
        raise ValueError(
            f"channel_axis = {axis!r} is not supported. Use -1 (channels last) or 1 (as in NCHW)."
        )
    if axis == 1 and shape is not None and len(shape) > 1:
        raise ValueError(
            f"channel_axis = 1 takes one width, but normalized_shape = {shape} has {len(shape)}."
            " Use channel_axis=-1 for several trailing sizes."
        )
    return axis


def _join(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
