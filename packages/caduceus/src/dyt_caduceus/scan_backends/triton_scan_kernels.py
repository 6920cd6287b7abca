"""Triton kernels of the selective scan, forward and backward. Only this module imports Triton.

Tiles are (states, time steps of a chunk). All tensors are contiguous float32: u, δ and y (B, D, L),
B and C (B, N, L), A (D, N), and one state for each chunk (B, D, chunks, N). Steps beyond the length
are read as δ = 0, which leaves the state unchanged.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _combine(decay_a, state_a, decay_b, state_b):
    """Compose two steps h ← decay·h + state, the first one on the left."""
    return decay_a * decay_b, decay_b * state_a + state_b


@triton.jit
def _scan(decay, state, start, time):
    """Return the states of a chunk whose first step follows the state ``start``."""
    state = tl.where(time == 0, decay * start[:, None] + state, state)
    _, states = tl.associative_scan((decay, state), 1, _combine)
    return states


@triton.jit
def _scan_back(decay, state, end, time, CHUNK: tl.constexpr):
    """Return the states of a scan backwards in time whose first step, the last, follows ``end``."""
    state = tl.where(time == CHUNK - 1, decay * end[:, None] + state, state)
    _, states = tl.associative_scan((decay, state), 1, _combine, reverse=True)
    return states


@triton.jit
def _at(values, time, step):
    """Return one column of a tile."""
    return tl.sum(tl.where(time == step, values, 0.0), 1)


@triton.jit
def forward(
    u,
    delta,
    A,
    B,
    C,
    y,
    starts,
    CHANNELS: tl.constexpr,
    LENGTH: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute y and the state in front of each chunk, one program for a channel of a sample."""
    CHUNKS: tl.constexpr = (LENGTH + CHUNK - 1) // CHUNK
    sample, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = (sample * CHANNELS + channel) * LENGTH
    n, time = tl.arange(0, BLOCK_N), tl.arange(0, CHUNK)[None, :]
    a = tl.load(A + channel * STATES + n, n < STATES, 0.0)[:, None]
    state = tl.zeros([BLOCK_N], tl.float32)
    for chunk in range(CHUNKS):
        at = chunk * CHUNK + time
        inside = at < LENGTH
        inside_n = inside & (n[:, None] < STATES)
        matrix = (sample * STATES + n[:, None]) * LENGTH + at
        step = tl.load(delta + row + at, inside, 0.0)
        into = tl.load(B + matrix, inside_n, 0.0) * (step * tl.load(u + row + at, inside, 0.0))
        here = ((sample * CHANNELS + channel) * CHUNKS + chunk) * STATES + n
        tl.store(starts + here, state, n < STATES)
        states = _scan(tl.exp(step * a), into, state, time)
        out = tl.sum(states * tl.load(C + matrix, inside_n, 0.0), 0)[None, :]
        tl.store(y + row + at, out, inside)
        state = _at(states, time, CHUNK - 1)


@triton.jit
def backward_ends(
    dy,
    delta,
    A,
    C,
    ends,
    CHANNELS: tl.constexpr,
    LENGTH: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute the gradient that enters each chunk from the next one, of the step behind its last.

    That is g of the next chunk's first step, before the decay of this step; one program for a
    channel of a sample.
    """
    CHUNKS: tl.constexpr = (LENGTH + CHUNK - 1) // CHUNK
    sample, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = (sample * CHANNELS + channel) * LENGTH
    n, time = tl.arange(0, BLOCK_N), tl.arange(0, CHUNK)[None, :]
    a = tl.load(A + channel * STATES + n, n < STATES, 0.0)[:, None]
    grad = tl.zeros([BLOCK_N], tl.float32)
    for back in range(CHUNKS):
        chunk = CHUNKS - 1 - back
        at = chunk * CHUNK + time
        inside = at < LENGTH
        here = ((sample * CHANNELS + channel) * CHUNKS + chunk) * STATES + n
        tl.store(ends + here, grad, n < STATES)
        matrix = (sample * STATES + n[:, None]) * LENGTH + at
        source = tl.load(C + matrix, inside & (n[:, None] < STATES), 0.0)
        source *= tl.load(dy + row + at, inside, 0.0)
        after = tl.load(delta + row + at + 1, at + 1 < LENGTH, 0.0)
        grad = _at(_scan_back(tl.exp(after * a), source, grad, time, CHUNK), time, 0)


@triton.jit
def backward(
    dy,
    u,
    delta,
    A,
    B,
    C,
    starts,
    ends,
    du,
    ddelta,
    dA,
    dB,
    dC,
    CHANNELS: tl.constexpr,
    LENGTH: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute all gradients of one chunk of a sample; dA is the chunk's part."""
    CHUNKS: tl.constexpr = (LENGTH + CHUNK - 1) // CHUNK
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, time = tl.arange(0, BLOCK_N), tl.arange(0, CHUNK)[None, :]
    at = chunk * CHUNK + time
    inside = at < LENGTH
    inside_n = inside & (n[:, None] < STATES)
    matrix = (sample * STATES + n[:, None]) * LENGTH + at
    b, c = tl.load(B + matrix, inside_n, 0.0), tl.load(C + matrix, inside_n, 0.0)
    grad_b = tl.zeros([BLOCK_N, CHUNK], tl.float32)
    grad_c = tl.zeros([BLOCK_N, CHUNK], tl.float32)
    for channel in range(CHANNELS):
        row = (sample * CHANNELS + channel) * LENGTH
        here = ((sample * CHANNELS + channel) * CHUNKS + chunk) * STATES + n
        a = tl.load(A + channel * STATES + n, n < STATES, 0.0)[:, None]
        start = tl.load(starts + here, n < STATES, 0.0)
        end = tl.load(ends + here, n < STATES, 0.0)
        x, step = tl.load(u + row + at, inside, 0.0), tl.load(delta + row + at, inside, 0.0)
        after = tl.load(delta + row + at + 1, at + 1 < LENGTH, 0.0)
        out = tl.load(dy + row + at, inside, 0.0)

        into = b * (step * x)
        states = _scan(tl.exp(step * a), into, start, time)
        grad = _scan_back(tl.exp(after * a), c * out, end, time, CHUNK)
        # The gradient of δA is g·decay·(the state before), and this product is the state without
        # what the step added. What the difference loses is small against the rest of dδ.
        exponent = grad * (states - into)
        grad_b += grad * (step * x)
        grad_c += states * out
        toward_b = tl.sum(grad * b, 0)[None, :]
        tl.store(du + row + at, step * toward_b, inside)
        tl.store(ddelta + row + at, x * toward_b + tl.sum(exponent * a, 0)[None, :], inside)
        tl.store(dA + here, tl.sum(exponent * step, 1), n < STATES)
    tl.store(dB + matrix, grad_b, inside_n)
    tl.store(dC + matrix, grad_c, inside_n)
