"""Fused candidates as functions: the residual addition, matrix products and casts with DyT.

They are private until a measurement on a card decides; then the library takes the winners only.
Each is a torch operator, so that a compiled network calls it as it is. Not every one has gradients:
`add_dyt` has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyt.backends import triton, triton_choice
from dyt.backends.triton_plan import Launch, plan_launch
from dyt.backends.triton_tuning import Tuning

Optional = Tensor | None
TUNING = Tuning()
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, kw_only=True)
class Division:
    """Division of an elementwise kernel: pieces that a thread reads at a time of each tensor, and
    programs per multiprocessor. Together they keep 48 to 64 kB of reads in flight there.
    """

    steps: int
    programs: int


ADD_FORWARD = Division(steps=2, programs=8)
ADD_BACKWARD = Division(steps=2, programs=4)
CAST = Division(steps=4, programs=8)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Division of a matrix product.

    Attributes:
        m: rows of the result that a program computes, and so on.
        descriptors: True if the GPU's copy engine loads tiles (TMA, from sm_90 on).
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    descriptors: bool

    @property
    def name(self) -> str:
        return f"{self.m} × {self.n} × {self.k}, {'TMA' if self.descriptors else 'pointers'}"


LARGE = Tile(m=128, n=256, k=64, warps=8, stages=3, descriptors=True)
SQUARE = Tile(m=128, n=128, k=64, warps=4, stages=3, descriptors=True)
POINTERS = Tile(m=128, n=256, k=64, warps=8, stages=3, descriptors=False)
# For the interpreter, which is slow.
INTERPRETED_TILE = Tile(m=16, n=16, k=16, warps=4, stages=1, descriptors=False)
GROUP = 8  # tiles that share columns


def method(dtype: torch.dtype) -> str:
    """Return the method of tanh that the library's kernels use for a dtype."""
    return triton_choice._method(TUNING, "tanh", dtype, False)


def tiles() -> tuple[Tile, ...]:
    """Return the tiles of products that this machine can run, the largest first."""
    if triton.INTERPRETED:
        return (INTERPRETED_TILE,)
    return (LARGE, SQUARE, POINTERS) if _is_hopper() else (POINTERS,)


def tanh_before_products() -> tuple[str | None, ...]:
    """Return the arguments `tanh` of `product` for DyT before it, the fastest last."""
    return (None, "pairs") if not triton.INTERPRETED and _is_hopper() else (None,)


def _is_hopper() -> bool:
    return torch.cuda.get_device_capability() >= (9, 0)


def _kernels() -> Any:
    from gpu_sections import fusion_kernels  # imports Triton

    return fusion_kernels


def plan(division: Division, *tensors: Tensor) -> tuple[Launch, dict[str, Any]]:
    """Return the launch of an elementwise kernel of contiguous tensors, and its constants."""
    x = tensors[0]
    concurrent = division.programs * triton_choice._multiprocessors(x.get_device())
    strides, size = tuple(t.stride() for t in tensors), x.dtype.itemsize
    launch = plan_launch(x.shape, strides, 1, -1, size, division.steps, concurrent)
    assert launch is not None and launch.constants["CONTIGUOUS"], "a tensor is not contiguous"
    names = ("STEPS", "BLOCK_P", "BLOCK_C", "ALIGNMENT", "num_warps")
    return launch, {name: launch.constants[name] for name in names}


@torch.library.custom_op("gpu_candidates::add_dyt", mutates_args=())
def add_dyt(
    x: Tensor, y: Tensor, alpha: Tensor, weight: Tensor, bias: Optional
) -> tuple[Tensor, Tensor]:
    """Return h = x + y and γ·tanh(αh) + β, in one launch."""
    h, z = torch.empty_like(x), torch.empty_like(x)
    launch, constants = plan(ADD_FORWARD, x, y)
    _kernels().add_forward[launch.grid](
        x, y, alpha, weight, bias, h, z, *_sizes(launch), METHOD=method(x.dtype), **constants
    )
    return h, z


@torch.library.custom_op("gpu_candidates::add_dyt_backward", mutates_args=())
def add_dyt_backward(
    grad_h: Tensor, grad_z: Tensor, h: Tensor, alpha: Tensor, weight: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x (and y), α, γ and β (empty without β), in two launches."""
    launch, constants = plan(ADD_BACKWARD, h, grad_h, grad_z)
    blocks, groups = launch.grid
    dx, dalpha, dweight = torch.empty_like(h), torch.empty_like(alpha), torch.empty_like(weight)
    dbias = torch.empty_like(weight) if has_bias else weight.new_empty(0)
    sums = h.new_empty(2 * groups * (launch.channels + blocks), dtype=torch.float32)
    constants |= {"METHOD": method(h.dtype), "BIAS": has_bias}
    _kernels().add_backward[launch.grid](
        grad_h, grad_z, h, alpha, weight, dx, sums, *_sizes(launch), **constants
    )
    rows, columns = triton_choice._FINAL_TILE
    triton_choice._kernels().add_partial_sums[(-(-launch.channels // columns), 3)](
        *(sums, dalpha, None, dweight, dbias if has_bias else None),
        *(groups, launch.channels, blocks * groups),
        ROWS=rows,
        COLUMNS=columns,
    )
    return dx, dalpha, dweight, dbias


def _sizes(launch: Launch) -> tuple[int, int]:
    """Return the numbers of positions and of channels."""
    return launch.numbers[0], launch.numbers[2]


@add_dyt.register_fake
def _(x: Tensor, y: Tensor, alpha: Tensor, weight: Tensor, bias: Optional) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@add_dyt_backward.register_fake
def _(
    grad_h: Tensor, grad_z: Tensor, h: Tensor, alpha: Tensor, weight: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dbias = torch.empty_like(weight) if has_bias else weight.new_empty(0)
    return torch.empty_like(h), torch.empty_like(alpha), torch.empty_like(weight), dbias


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, alpha, weight, bias = inputs
    ctx.save_for_backward(output[0], alpha, weight)
    ctx.has_bias = bias is not None


def _add_dyt_gradients(ctx: Any, grad_h: Tensor, grad_z: Tensor) -> tuple[Tensor | None, ...]:
    grads = (grad_h.contiguous(), grad_z.contiguous())
    dx, dalpha, dweight, dbias = add_dyt_backward(*grads, *ctx.saved_tensors, ctx.has_bias)
    return dx, dx, dalpha, dweight, dbias if ctx.has_bias else None


add_dyt.register_autograd(_add_dyt_gradients, setup_context=_save_inputs)


def dyt_fp8(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor,
    bias: Optional,
    scale: Tensor,
    dtype: torch.dtype = FP8,
) -> Tensor:
    """Return (γ·tanh(αx) + β) / scale in fp8 (e4m3), in one launch; `scale` is a float32 number.

    DyT's output is at most |γ| + |β|: the scale needs no pass over the activations.

    Args:
        dtype: another one for tests by the interpreter, which does not round to fp8 correctly.
    """
    y = torch.empty_like(x, dtype=dtype)
    launch, constants = plan(CAST, x)
    _kernels().cast_forward[launch.grid](
        x, alpha, weight, bias, scale, y, *_sizes(launch), METHOD=method(x.dtype), **constants
    )
    return y


def largest_scale(weight: Tensor, bias: Optional) -> Tensor:
    """Return the smallest scale with which no output of DyT exceeds the range of fp8."""
    largest = weight.float().abs() + (0 if bias is None else bias.float().abs())
    return largest.max() / torch.finfo(FP8).max


def fold(matrix: Tensor, weight: Tensor, bias: Optional) -> tuple[Tensor, Optional]:
    """Return weight and bias of a linear layer that takes tanh(αx) in place of DyT(x)."""
    folded = (matrix.float() * weight.float()).to(matrix.dtype)
    return folded, None if bias is None else (matrix.float() @ bias.float()).to(matrix.dtype)


def product(
    a: Tensor,
    b: Tensor,
    tile: Tile,
    *,
    alpha: Optional = None,
    residual: Optional = None,
    weight: Optional = None,
    bias: Optional = None,
    tanh: str | None = None,
) -> tuple[Tensor, Optional]:
    """Return c = a·bᵀ, with DyT before the product (α alone) or after it.

    With a residual, c = a·bᵀ + residual, and the second result is weight·tanh(αc) + bias.

    Args:
        tanh: "pairs" for one instruction for two elements, before the product only.
    """
    (m, k), (n, _) = a.shape, b.shape
    assert m % tile.m == n % tile.n == k % tile.k == 0, "the tile does not divide the matrices"
    given = [t for t in (a, b, residual) if t is not None]
    assert all(t.is_contiguous() for t in given), "a matrix is not contiguous"
    after = residual is not None
    c = a.new_empty(m, n)
    z = torch.empty_like(c) if after else None
    operands = (a, b)
    if tile.descriptors:
        from triton.tools.tensor_descriptor import TensorDescriptor

        operands = (
            TensorDescriptor.from_tensor(a, [tile.m, tile.k]),
            TensorDescriptor.from_tensor(b, [tile.n, tile.k]),
        )
    _kernels().matmul[((m // tile.m) * (n // tile.n),)](
        *(*operands, c, alpha, residual, weight, bias, z, m, n, k),
        METHOD=tanh or method(a.dtype),
        PROLOGUE=alpha is not None and not after,
        EPILOGUE=after,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=tile.k,
        DESCRIPTORS=tile.descriptors,
        GROUP=GROUP,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return c, z


@torch.library.custom_op("gpu_candidates::linear_after_dyt", mutates_args=())
def linear_after_dyt(x: Tensor, alpha: Tensor, matrix: Tensor, bias: Optional) -> Tensor:
    """Return tanh(αx)·matrixᵀ + bias of x (..., C); matrix and bias are from `fold`."""
    tanh = tanh_before_products()[-1]
    c, _ = product(x.flatten(0, -2), matrix, tiles()[0], alpha=alpha, bias=bias, tanh=tanh)
    return c.view(*x.shape[:-1], -1)


@linear_after_dyt.register_fake
def _(x: Tensor, alpha: Tensor, matrix: Tensor, bias: Optional) -> Tensor:
    return x.new_empty(*x.shape[:-1], matrix.shape[0])


@torch.library.custom_op("gpu_candidates::linear_add_dyt", mutates_args=())
def linear_add_dyt(
    x: Tensor, a: Tensor, matrix: Tensor, alpha: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return h = x + a·matrixᵀ and γ·tanh(αh), for x (..., C)."""
    residual, flat = x.flatten(0, -2), a.flatten(0, -2)
    h, z = product(flat, matrix, tiles()[0], alpha=alpha, residual=residual, weight=weight)
    assert z is not None
    return h.view(x.shape), z.view(x.shape)


@linear_add_dyt.register_fake
def _(x: Tensor, a: Tensor, matrix: Tensor, alpha: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)
