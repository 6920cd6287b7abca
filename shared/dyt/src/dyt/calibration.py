"""Calibration: initial α (and γ, β) of each DyT layer, fitted to a network's data in a few runs.

The network runs with its norm layers still in place. Forward hooks collect the inputs and outputs
of one norm layer after the other, in order of execution, fit its DyT layer to them, and from then
on replace the norm layer's output by that of the fitted layer. Nothing is changed before all
layers are fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed, nn

from dyt.calibration_fit import Fit, Reduce, Samples, fit_layer
from dyt.calibration_influence import Masks, find_influence
from dyt.calibration_rows import (
    CalibrationError,
    Collected,
    Target,
    collect_rows,
    position_sizes,
    rows_of,
    unrows,
)
from dyt.validation import check_choice

Inputs = Literal["sequential", "original"]
Gamma = Literal["scale", "one"]
Weights = Tensor | Callable[[str, Tensor], Tensor]

MAXIMUM_BATCHES = 64
MINIMUM_POSITIONS = 8  # for γ and β of each channel
SAMPLED_VALUES = 2**22  # inputs of one layer that are kept, 16 MiB in float32


@dataclass(frozen=True)
class Calibration:
    """Data to fit α (and γ, β) on, and how.

    Attributes:
        data: one batch: a tensor, a mapping (called as model(**batch)), a tuple (model(*batch)) or
            a callable that runs the network, given the network; or an iterable of at most 64
            batches, all of which are kept in memory. The labels of a DataLoader are inputs of the
            network for this purpose: use `lambda model: model(images)`. A batch of a few hundred
            to a few thousand positions (tokens, pixels) is enough.
        inputs: "sequential" fits each layer on the activations that the layers before it give
            when they are already replaced; "original" on those of the unchanged network.
        gamma: for training from scratch (without copy_affine). "scale": α·rms is 1/8, where tanh is
            nearly linear, and γ is one number for each layer, with which its output is as large as
            the norm layer's. Positions that the network's outputs do not depend on, such as all but
            the class token at the last norm, are ignored; a backward pass finds them. Activations
            grow in the first steps of training, by which a norm layer is unaffected, and DyT only
            until they saturate it. "one": γ = 1, as in the papers, and α is the least-squares fit,
            at an α·rms of about 1.4.
        weights: a non-negative weight for each position, of shape (T,) or (B, T) for layers with
            inputs of shape (B, T, C) (layers with other positions count all alike), or a function
            of a layer's path and input that returns weights of the shape of its positions.
            Positions with weight 0 are ignored. By default all positions count alike, padding
            according to a batch's `attention_mask` is ignored, and in inputs of a fixed length the
            few positions that fit far worse than the others (class token, BOS) are weighted like
            all the others together.
        group: processes that call with different data of the same network; sums are taken over all
            of them, and all get the same result.
    """

    data: Any
    _: KW_ONLY
    inputs: Inputs = "sequential"
    gamma: Gamma = "scale"
    weights: Weights | None = None
    group: distributed.ProcessGroup | None = None

    def __post_init__(self) -> None:
        check_choice("inputs", self.inputs, get_args(Inputs))
        check_choice("gamma", self.gamma, get_args(Gamma))


class _EndOfPass(BaseException):
    """Raised by a hook to end a run early; not an Exception, which the network might catch."""


def calibrate(
    model: nn.Module, targets: Sequence[Target], calibration: Calibration
) -> dict[nn.Module, Fit]:
    """Return the fit for each norm layer; layers that the data never reach have none.

    The network runs in evaluation mode and without gradients, and keeps its values, modes and
    random state.

    Raises:
        ValueError: the data are empty, not finite or not accepted by the network; no layer was
            called; or the network is compiled or on the meta device.
    """
    _check_model(model)
    run = _Run(model, targets, calibration, _batches(calibration.data))
    training = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        for module, mode in training.items():
            stack.callback(setattr, module, "training", mode)
            module.training = False
        run.find_influence()
        for target in targets:
            handle = target.module.register_forward_hook(run.hook(target), with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        run.count_calls()
        while run.waiting():
            run.run_batches()
            run.drop_unreached()
    return run.fits


class _Run:
    """Runs of the network on all batches, and what the hooks have collected and fitted."""

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Target],
        calibration: Calibration,
        batches: list[Any],
    ) -> None:
        self.model, self.calibration, self.batches = model, calibration, batches
        self.targets = {target.module: target for target in targets}
        self.reduce = _make_reduce(calibration.group)
        # Calls of each layer in each batch; its keys are in order of execution.
        self.calls: dict[nn.Module, list[int]] = {}
        self.counting = True
        self.batch = 0
        self.fits: dict[nn.Module, Fit] = {}
        self.fitted_before: set[nn.Module] = set()
        self.collected = Collected()
        # Positions that the outputs depend on, for each batch.
        self.influence: list[Masks] = []
        # Outlying positions of the layers so far, for each shape of the positions.
        self.emphasized: dict[tuple[int, ...], tuple[int, ...]] = {}

    def waiting(self) -> list[nn.Module]:
        """Return the layers that were called but are not fitted yet, in order of execution."""
        return [module for module in self.calls if module not in self.fits]

    def count_calls(self) -> None:
        """Run all batches once, to find the order of the layers and the number of their calls."""
        self.run_batches()
        self.counting = False
        if not self.calls:
            raise ValueError(
                "calibrate: the network ran on the data without calling any of its norm layers"
                f" ({', '.join(target.path for target in self.targets.values())}). Pass data that"
                " use them, as a callable if necessary: calibrate=lambda model: model.encode(x)."
            )

    def find_influence(self) -> None:
        """Find the positions that the outputs depend on, where γ is one number for each layer."""
        targets = [t for t in self.targets.values() if t.form.affine == "scale"]
        if not targets or self.calibration.weights is not None:
            return
        for data in self.batches:
            with self.same_random_numbers():
                self.influence.append(find_influence(targets, partial(_call, self.model, data)))

    def same_random_numbers(self) -> AbstractContextManager[None]:
        """Keep the random state: each pass draws the same numbers, and the caller's stays as is."""
        devices = {p.device for p in self.model.parameters() if p.is_cuda}
        return torch.random.fork_rng(devices=[d.index for d in devices])

    def run_batches(self) -> None:
        """Run all batches with the same random numbers in each pass, and fit the next layers."""
        self.collected = Collected()
        with self.same_random_numbers():
            for index, data in enumerate(self.batches):
                self.batch = index
                try:
                    _call(self.model, data)
                except _EndOfPass:
                    continue
                except CalibrationError:
                    raise
                except Exception as error:  # a third-party forward may raise anything
                    raise ValueError(
                        f"calibrate: {type(self.model).__name__} does not run on the data:"
                        f" {type(error).__name__}: {error}. Pass a batch of the shape, dtype and"
                        " device that the network takes."
                    ) from error
        if not self.counting and self.collected.calls:
            self.fit(self.waiting()[0])

    def drop_unreached(self) -> None:
        """Leave out the next layer if the last pass fitted none: the data no longer reach it.

        Replaced norms change what a network computes, and with it which layers it calls.
        """
        if self.fits.keys() == self.fitted_before:
            del self.calls[self.waiting()[0]]
        self.fitted_before = set(self.fits)

    def hook(self, target: Target) -> Callable[..., Any]:
        """Return the forward hook of a norm layer."""

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
        ) -> Any:
            x = args[0] if args else next(iter(kwargs.values()))
            if self.counting:
                counts = self.calls.setdefault(module, [0] * len(self.batches))
                counts[self.batch] += 1
                return None
            if module not in self.fits and module is self.waiting()[0]:
                self.collect(target, x, y)
            if module not in self.fits or self.calibration.inputs == "original":
                return None
            rows = self.fits[module].output(rows_of(x, target.spec).float(), target.form.squash)
            result = unrows(rows, x, target.spec).to(y.dtype)
            activation = target.spec.activation
            return result if activation is None else activation(result)

        return hook

    def collect(self, target: Target, x: Tensor, y: Tensor) -> None:
        """Keep the rows of a call; after the layer's last call, fit it or end the pass."""
        collected, counts = self.collected, self.calls[target.module]
        budget = SAMPLED_VALUES // sum(counts)
        collect_rows(collected, target, x, y, self.row_weights(target, x), budget)
        if len(self.batches) == 1 and collected.calls == counts[0]:
            self.fit(target.module)
            if counts[0] > 1:  # its earlier calls gave the norm layer's output
                raise _EndOfPass
        elif collected.calls == sum(counts[: self.batch + 1]):
            raise _EndOfPass

    def row_weights(self, target: Target, x: Tensor) -> Tensor | None:
        """Return the weights of the positions of an input, or None if they count alike."""
        weights, sizes = self.calibration.weights, position_sizes(x, target.spec)
        if callable(weights):
            weights = weights(target.path, x)
            if tuple(weights.shape) != sizes:
                raise CalibrationError(
                    f"weights returned a tensor of shape {tuple(weights.shape)} for"
                    f" {target.path!r}, but its positions have shape {sizes}."
                )
        elif weights is None and isinstance(self.batches[self.batch], Mapping):
            weights = self.batches[self.batch].get("attention_mask")
        if weights is not None and tuple(weights.shape) not in (sizes, sizes[1:]):
            weights = None
        if self.influence:
            masks = self.influence[self.batch].get(target.module, [])
            call = self.collected.calls - sum(self.calls[target.module][: self.batch])
            if call < len(masks) and masks[call].shape == sizes:
                weights = masks[call] if weights is None else weights * masks[call]
        if weights is None:
            return None
        weights = weights.to(x.device, torch.float32)
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            raise CalibrationError(
                f"the weights for {target.path!r} are not all finite and 0 or more; pass such"
                " weights, 0 for positions to ignore."
            )
        return weights.expand(sizes).reshape(-1)

    def fit(self, module: nn.Module) -> None:
        """Fit a layer to the collected rows."""
        target, collected = self.targets[module], self.collected
        self.collected = Collected()
        device = collected.x[0].device
        fixed = self.same_on_all_ranks(collected.lengths, device)
        samples = Samples(
            x=torch.cat(collected.x),
            target=torch.cat(collected.target),
            weights=torch.cat(collected.weights),
            positions=torch.cat(collected.positions) if fixed else None,
            length=math.prod(next(iter(collected.lengths))) if fixed else 1,
            user_weights=self.calibration.weights is not None,
            emphasized=self.emphasized.get(next(iter(collected.lengths)), ()) if fixed else (),
        )
        count = (samples.weights > 0).sum()[None]
        minimum = MINIMUM_POSITIONS if target.form.affine in ("weight", "both") else 1
        if (positions := int(self.reduce(count).item())) < minimum:
            raise CalibrationError(
                f"{target.path!r} got {positions} positions with a positive weight, but needs at"
                f" least {minimum}. Pass a larger batch."
            )
        self.fits[module] = fit = fit_layer(samples, target.form, self.reduce)
        if fixed:
            self.emphasized[next(iter(collected.lengths))] = fit.emphasized

    def same_on_all_ranks(self, lengths: set[tuple[int, ...]], device: torch.device) -> bool:
        """True if all inputs, in all processes, have the same positions."""
        length = math.prod(next(iter(lengths))) if len(lengths) == 1 else 0
        values = [1.0, length, length**2]
        sums = self.reduce(torch.tensor(values, dtype=torch.float64, device=device))
        count, total, squares = sums.tolist()
        return length > 0 and total == count * length and squares == count * length**2


def _check_model(model: nn.Module) -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "calibrate cannot run within torch.inference_mode, whose parameters cannot be trained."
            " Call it outside; it computes no gradients."
        )
    compiled = any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )
    if compiled or torch.compiler.is_compiling():
        raise ValueError(
            "calibrate needs a network that is not compiled: convert it, then call torch.compile."
        )
    meta = next((name for name, p in model.named_parameters() if p.is_meta), None)
    if meta is not None:
        raise ValueError(
            f"calibrate needs the network's values, but {meta!r} is on the meta device. Initialize"
            " the network first."
        )


def _batches(data: Any) -> list[Any]:
    """Return the batches as a list."""
    if isinstance(data, (Tensor, Mapping, tuple)) or callable(data):
        return [data]
    if not isinstance(data, Iterable):
        raise ValueError(
            f"calibrate = {type(data).__name__} is not a batch (tensor, mapping, tuple or callable)"
            " or an iterable of batches."
        )
    batches: list[Any] = []
    for batch in data:
        if len(batches) == MAXIMUM_BATCHES:
            raise ValueError(
                f"calibrate got more than {MAXIMUM_BATCHES} batches. Pass a few, as with"
                " itertools.islice(loader, 8)."
            )
        batches.append(batch)
    if not batches:
        raise ValueError("calibrate got no batch: the iterable is empty or already used up.")
    return batches


def _call(model: nn.Module, batch: Any) -> Any:
    """Run the network on a batch, and return its outputs."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    if isinstance(batch, Tensor):
        return model(batch)
    if callable(batch):
        return batch(model)
    raise CalibrationError(
        f"a batch is {type(batch).__name__}, not a tensor, mapping, tuple or callable."
    )


def _make_reduce(group: distributed.ProcessGroup | None) -> Reduce:
    if group is None:
        return lambda tensor: tensor

    def sum_over_ranks(tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total, group=group)
        return total

    return sum_over_ranks
