"""The selective scan in plain PyTorch: one fused multiply-add a step, over short chunks of time.

A whole scan's states are (L, B, N, D), 16 times its input. Only the inputs and the state in front
of each chunk are kept; the backward pass recomputes a chunk's states, which are then still in the
processor's cache. This is 2 to 5 times faster than a loop over states that are all kept. Time is
the first axis, so that a step's operands are contiguous, and the channels are the last one, so that
vector instructions have long rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32
"""Time steps of a chunk."""
CACHED = 2**15
"""State elements of one time step, at most; larger batches are processed in parts. A chunk's three
buffers of this size are 12 MB."""


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return Cₜ·hₜ of the states hₜ = exp(δₜA)·hₜ₋₁ + δₜ·Bₜ·uₜ, as (B, D, L).

    Args:
        u: input, (B, D, L).
        delta: step sizes, (B, D, L).
        A: (D, N).
        B: (B, N, L).
        C: (B, N, L).
    """
    time_first = (t.permute(2, 0, 1).contiguous() for t in (u, delta, B, C))
    apply: Any = _Scan.apply  # torch has no annotations for it
    y: Tensor = apply(A.t().contiguous(), *time_first)
    return y.permute(1, 2, 0)


class _Scan(torch.autograd.Function):
    """The scan of tensors with time first: A (N, D), u and δ (L, B, D), B and C (L, B, N)."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        length, batch, _ = u.shape
        y = torch.empty_like(u)
        starts = u.new_empty(-(-length // CHUNK), batch, *A.shape)
        for part in _parts(batch, A.numel()):
            inputs = u[:, part], delta[:, part], B[:, part]
            state = torch.zeros_like(starts[0, part])
            decay, states = (_buffer(state, length) for _ in range(2))
            for index, steps in enumerate(_chunks(length)):
                starts[index, part] = state
                count = steps.stop - steps.start
                _decay(delta[steps, part], A, decay[:count])
                _run_chunk(inputs, steps, decay[:count], state, states[:count])
                state = states[count - 1].clone()
                y[steps, part] = _contract_states(C[steps, part], states[:count])
        ctx.save_for_backward(A, u, delta, B, C, starts)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        # Autocast, if it is active here, would compute the products in half precision.
        with torch.autocast(dy.device.type, enabled=False):
            return _backward(dy, *ctx.saved_tensors)


def _backward(
    dy: Tensor, A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, starts: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of A, u, δ, B and C.

    With g the gradient of the states, gₜ = Cₜ·dyₜ + aₜ₊₁·gₜ₊₁ for the decay a = exp(δA); from there
    every gradient is a product of one chunk's tensors.
    """
    length, batch, _ = u.shape
    dA, du, ddelta = torch.zeros_like(A), torch.empty_like(u), torch.empty_like(delta)
    dB, dC = torch.empty_like(B), torch.empty_like(C)
    for part in _parts(batch, A.numel()):
        carry = torch.zeros_like(starts[0, part])
        decay_buffer, state_buffer, grad_buffer = (_buffer(carry, length, 1) for _ in range(3))
        for index, steps in reversed(list(enumerate(_chunks(length)))):
            count = steps.stop - steps.start
            decay, grad = decay_buffer[:count], grad_buffer[:count]
            u_part, delta_part, B_part, dy_part = (t[steps, part] for t in (u, delta, B, dy))
            # The states of the chunk, after the one in front of it.
            states = state_buffer[: count + 1]
            states[0] = starts[index, part]
            _decay(delta_part, A, decay)
            inputs = u[:, part], delta[:, part], B[:, part]
            _run_chunk(inputs, steps, decay, states[0], states[1:])
            torch.mul(dy_part[:, :, None], C[steps, part, :, None], out=grad)
            grad[-1] += carry
            for step in range(count - 2, -1, -1):
                grad[step].addcmul_(decay[step + 1], grad[step + 1])
            carry = decay[0] * grad[0]
            dC[steps, part] = _contract_channels(states[1:], dy_part)
            dB[steps, part] = _contract_channels(grad, delta_part * u_part)
            grad_B = _contract_states(B_part, grad)
            du[steps, part] = delta_part * grad_B
            exponent = grad.mul_(states[:-1]).mul_(decay)  # the gradient of δA
            torch.mul(exponent, A, out=decay)
            ddelta[steps, part] = torch.addcmul(decay.sum(2), u_part, grad_B)
            dA += exponent.mul_(delta_part[:, :, None]).sum((0, 1))
    return dA, du, ddelta, dB, dC


def _parts(batch: int, state: int) -> list[slice]:
    """Return parts of the batch whose states are few enough; ``state`` is one sample's."""
    size = max(1, CACHED // state)
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def _chunks(length: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]


def _buffer(state: Tensor, length: int, more: int = 0) -> Tensor:
    """Return memory for the states of a chunk, and for ``more`` further ones."""
    return state.new_empty(min(CHUNK, length) + more, *state.shape)


def _decay(delta: Tensor, A: Tensor, out: Tensor) -> None:
    """Write exp(δA), (T, B, N, D)."""
    torch.mul(delta[:, :, None], A, out=out).exp_()


def _run_chunk(
    inputs: tuple[Tensor, Tensor, Tensor], steps: slice, decay: Tensor, state: Tensor, out: Tensor
) -> None:
    """Write the states of a chunk, (T, B, N, D), from u, δ and B and the state in front of it."""
    u, delta, B = (tensor[steps] for tensor in inputs)
    torch.mul((delta * u)[:, :, None], B[..., None], out=out)
    for step in range(len(out)):
        state = out[step].addcmul_(decay[step], state)


def _contract_states(weights: Tensor, states: Tensor) -> Tensor:
    """Return the sum over N of weights (T, B, N) times states (T, B, N, D): (T, B, D)."""
    return (weights[:, :, None] @ states).squeeze(2)


def _contract_channels(states: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over D of states (T, B, N, D) times weights (T, B, D): (T, B, N)."""
    return (states @ weights[..., None]).squeeze(3)
