"""Finds out who reads the output of each DyT layer: what `fold` may change rests on that.

There are two ways to know. `trace` follows the network symbolically (torch.fx), without inputs, and
is for networks whose Python does not depend on them. `observe` runs the network on an example and
watches every operator of torch, from whichever library it is called, for one that touches the
storage of an output: so views are followed, too.
"""

from __future__ import annotations

import copy
import gc
import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyt.layers import DynamicErf, DynamicTanh

DYNAMIC = (DynamicTanh, DynamicErf)
PASSES_ON = (nn.Identity, nn.Dropout)
"""Modules that in evaluation return their input."""
SIZES = ("shape", "ndim", "size", "dim")
"""Attributes and methods of a tensor that read no value."""


@dataclass
class Readers:
    """What a trace or a run showed.

    Fields:
        called: the DyT layers that were called.
        linears: of each layer, the Linears that read its output, in order (the values are None).
        others: of each layer, everything else that reads its output, in words.
        inputs: of each Linear, the layers whose output it got, and None for any other input.
        exposed: layers and Linears whose parameters something besides themselves reads.
    """

    called: set[nn.Module] = field(default_factory=set)
    linears: defaultdict[nn.Module, dict[nn.Linear, None]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    others: defaultdict[nn.Module, list[str]] = field(default_factory=lambda: defaultdict(list))
    inputs: defaultdict[nn.Linear, set[nn.Module | None]] = field(
        default_factory=lambda: defaultdict(set)
    )
    exposed: set[nn.Module] = field(default_factory=set)


def is_linear(module: nn.Module) -> bool:
    """Whether the module's class computes what nn.Linear does, x·Wᵀ + b, and nothing more."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


class Owners:
    """Which modules hold a parameter in a piece of memory.

    Storages alone do not tell: one may hold all of a checkpoint.
    """

    def __init__(self, model: nn.Module) -> None:
        self._spans: dict[StorageWeakRef, list[tuple[int, int, nn.Module]]] = defaultdict(list)
        for module in model.modules():
            for parameter in module._parameters.values():
                if (storage := _storage(parameter)) is not None:
                    self._spans[storage].append((*_span(parameter), module))

    def of(self, tensor: Tensor) -> set[nn.Module]:
        """The modules with a parameter that shares memory with the tensor."""
        spans = self._spans.get(_storage(tensor))
        if spans is None:
            return set()
        first, last = _span(tensor)
        return {module for begin, end, module in spans if first < end and begin < last}


def _storage(tensor: object) -> StorageWeakRef | None:
    """A key that stays unique though the memory may be freed, and tells whether it is.

    None for what is no tensor, or has no storage to show, such as a sparse one or one under vmap.
    """
    if not isinstance(tensor, Tensor):
        return None
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except NotImplementedError:
        return None


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the first after it."""
    start, size = tensor.storage_offset(), tensor.element_size()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    length = 1 + sum((n - 1) * stride for n, stride in steps) if tensor.numel() else 0
    return start * size, (start + length) * size


def trace(model: nn.Module) -> Readers:
    """Who reads what, by symbolic tracing; an argument that has a default takes it.

    Raises:
        ValueError: torch.fx cannot follow the network.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        # A copy, with the same tensors, since symbols may stay behind in a module's attributes.
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        double = copy.deepcopy(model, tensors)
        # DyTLinear keeps activations only where gradients are wanted, by ways fx cannot follow.
        with torch.no_grad():
            graph = _Tracer().trace(double, concrete_args=defaults)
    except Exception as error:  # whatever a foreign forward raises on a symbol
        raise ValueError(
            f"fold cannot follow {type(model).__name__} without inputs: torch.fx stopped at"
            f" {type(error).__name__}: {error}. Pass an example of the inputs, which is then run"
            " once, as in fold(model, images) or fold(model, input_ids=tokens)."
        ) from error
    owners, readers = Owners(model), Readers()
    for node in graph.nodes:
        module = _called(model, node)
        if isinstance(module, DYNAMIC):
            _note_users(model, node, module, readers)
        elif module is not None and is_linear(module):
            source = _called(model, _source(model, node))
            readers.inputs[module].add(source if isinstance(source, DYNAMIC) else None)
        elif module is not None:
            readers.exposed |= set(module.modules())  # fx does not look into a module of torch
        elif node.op == "get_attr" and isinstance(value := _attribute(double, node), Tensor):
            readers.exposed |= owners.of(value)
    return readers


def _note_users(model: nn.Module, node: fx.Node, layer: nn.Module, readers: Readers) -> None:
    readers.called.add(layer)
    for user in _users(model, node):
        reader = _called(model, user)
        if reader is not None and is_linear(reader):
            readers.linears[layer][reader] = None
        else:
            readers.others[layer].append(_say(user, reader))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        leaf = isinstance(module, DYNAMIC) or is_linear(module)
        return leaf or super().is_leaf_module(module, path)


def _called(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(node.target) if node.op == "call_module" else None


def _users(model: nn.Module, node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if isinstance(_called(model, user), PASSES_ON):
            yield from _users(model, user)
        elif not _asks_for_size(user):
            yield user


def _asks_for_size(user: fx.Node) -> bool:
    attribute = user.target is getattr and user.args[1] in SIZES
    return attribute or (user.op == "call_method" and user.target in SIZES)


def _source(model: nn.Module, node: fx.Node) -> fx.Node:
    """The node whose value a module gets, before dropouts and the like."""
    source = node.all_input_nodes[0]
    return _source(model, source) if isinstance(_called(model, source), PASSES_ON) else source


def _attribute(model: nn.Module, node: fx.Node) -> Any:
    path, _, name = node.target.rpartition(".")
    return getattr(model.get_submodule(path), name)


def _say(user: fx.Node, reader: nn.Module | None) -> str:
    if user.op == "output":
        return "the model returns its output"
    name = user.target if isinstance(user.target, str) else user.target.__name__
    kind = "" if reader is None else f" ({type(reader).__name__})"
    return f"{name}{kind} reads its output"


@torch.no_grad()
def observe(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Readers:
    """Who reads what, in one run of model(*args, **kwargs)."""
    watch = _Watch(model)
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # it takes no hooks, but its operators are seen
            # Inside of every other hook on a Linear's input and a layer's output, so that what
            # those hooks read is seen and what they return is not taken for the layer's output.
            for handle in (
                module.register_forward_pre_hook(watch.enter, with_kwargs=True),
                module.register_forward_hook(watch.leave, prepend=True, always_call=True),
            ):
                stack.callback(handle.remove)
        # Compiled parts call neither hooks nor operators one by one.
        with torch.compiler.set_stance("force_eager"), watch, _RawMemory(watch):
            result = model(*args, **kwargs)
    watch.note_kept()
    del result  # until here it holds the outputs that the model returns
    return watch.readers


@dataclass(frozen=True)
class _Output:
    """A layer's output: whose, and how it lies in its storage."""

    layer: nn.Module
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @classmethod
    def of(cls, layer: nn.Module, y: Tensor) -> _Output:
        return cls(layer, tuple(y.shape), y.stride(), y.storage_offset(), y.dtype)

    def has_channels_of(self, view: Tensor) -> bool:
        """Whether the last axis of a view of it is the channels, in their order."""
        if self == _Output.of(self.layer, view):
            return True
        width, contiguous = self.sizes[-1], _strides(self.sizes) == self.strides
        steps = (*view.stride()[:-1], view.storage_offset() - self.offset)
        return (
            contiguous
            and view.dtype == self.dtype
            and view.shape[-1:] == (width,)
            and view.stride(-1) == 1
            and all(step % width == 0 for step in steps)
        )


def _strides(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(sizes, device="meta").stride()


class _Watch(TorchDispatchMode):
    """Sees every operator of a run, and by hooks the module in whose forward it is called."""

    # Such as flex_attention. What they call, as torch.cond does its branches, is hidden from here.
    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.readers = Readers()
        self.owners = Owners(model)
        self.paths = {module: path for path, module in model.named_modules()}
        self.outputs: dict[StorageWeakRef, _Output] = {}
        self.inside: list[nn.Module] = []
        self.hidden = False

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.inside.append(module)
        if not is_linear(module):
            return
        x = args[0] if args else kwargs["input"]
        output = self.outputs.get(_storage(x))
        if output is not None and output.has_channels_of(x):
            self.readers.linears[output.layer][module] = None
            self.readers.inputs[module].add(output.layer)
            return
        self.readers.inputs[module].add(None)
        if output is not None:
            self.readers.others[output.layer].append(
                f"{self.paths[module]} reads a view of its output in which the channels moved"
            )

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.inside.pop()
        if not isinstance(module, DYNAMIC) or (module.weight is None and module.bias is None):
            return
        self.readers.called.add(module)
        if (storage := _storage(output)) is not None and not self.hidden:
            self.outputs[storage] = _Output.of(module, output)
        else:
            self.readers.others[module].append("it is called where its readers are not seen")

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.hidden = not isinstance(operator, OpOverload)
        result = operator(*args, **kwargs)
        self.hidden = False
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        # A view reads no value, and shares its base's storage: unless it had to copy.
        is_view = getattr(operator, "is_view", False)
        if is_view:
            made = {_storage(value) for value in tree_leaves(result)}
            is_view = made <= {_storage(tensor) for tensor in given}
        for tensor in () if is_view else given:
            self.note_read(tensor, str(operator))
        return result

    def note_read(self, tensor: Tensor, name: str) -> None:
        module = self.inside[-1] if self.inside else None
        if module not in (owners := self.owners.of(tensor)):
            self.readers.exposed |= owners
        output = self.outputs.get(_storage(tensor))
        if output is not None and not (module is not None and is_linear(module)):
            where = f" in {path}" if (path := self.paths.get(module)) else ""
            self.readers.others[output.layer].append(f"{name}{where} reads its output")

    def note_kept(self) -> None:
        """Note the outputs that something still holds: the caller, a cache or a user's hook."""
        if not all(storage.expired() for storage in self.outputs):
            gc.collect()  # a cycle of references may be all that holds one
        for storage, output in self.outputs.items():
            if not storage.expired():
                self.readers.others[output.layer].append("its output is returned or kept")


class _RawMemory(TorchFunctionMode):
    """Sees who takes a tensor's memory past all operators, as kernels in Triton and NumPy do."""

    TAKES = (Tensor.data_ptr, Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in self.TAKES:
            self.watch.note_read(args[0], f"Tensor.{function.__name__}")
        return function(*args, **(kwargs or {}))
