"""Consumers of each DyT layer's output, which determine the layers that `fold` can change.

There are two analyses. `trace` follows the network symbolically (torch.fx) without inputs, for
networks whose Python code does not depend on them. `observe` runs the network on an example and
checks every torch operator, called from any library, for access to the storage of an output, which
also covers views.
"""

from __future__ import annotations

import copy
import gc
import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyt.layers import Derf, DyT
from dyt.norm_survey import DYNAMIC

IDENTITY_IN_EVAL = (nn.Identity, nn.Dropout)
"""Modules that return their input in evaluation mode."""
SIZE_ATTRIBUTES = ("shape", "ndim", "size", "dim")
"""Attributes and methods of a tensor that do not read its values."""


@dataclass
class Consumers:
    """The result of a trace or a run.

    A convolution without padding counts as a Linear.

    Attributes:
        called: the DyT layers that were called.
        linears: for each layer, the Linears that read its output, in order (the values are None).
        others: for each layer, descriptions of everything else that reads its output.
        inputs: for each Linear, the layers whose output it received, and None for any other input.
        exposed: layers and Linears whose parameters are read outside of their own forward.
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


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """True if the module computes exactly what nn.Linear or an unpadded convolution does.

    Padding inserts zeros, which γ·t + β is not.
    """
    # The annotation names nn.Linear alone: convolutions have the attributes that are used here.
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if isinstance(module, kind):
            unpadded = module.padding == "valid" or set(module.padding) == {0}
            return type(module).forward is kind.forward and unpadded and module.groups == 1
    return False


def channel_axis(linear: nn.Module) -> int:
    """Return the axis of the channels that a Linear (-1) or a convolution (1) reads."""
    return -1 if isinstance(linear, nn.Linear) else 1


class ParameterOwners:
    """Lookup of the modules whose parameters occupy a given range of memory.

    Comparing storages is not sufficient, since one storage may hold a whole checkpoint.
    """

    def __init__(self, model: nn.Module) -> None:
        self._spans: dict[StorageWeakRef | None, list[tuple[int, int, nn.Module]]]
        self._spans = defaultdict(list)
        for module in model.modules():
            for parameter in module._parameters.values():
                if parameter is not None and (storage := _storage(parameter)) is not None:
                    self._spans[storage].append((*_span(parameter), module))

    def of(self, tensor: Tensor) -> set[nn.Module]:
        """Return the modules with a parameter that shares memory with the tensor."""
        spans = self._spans.get(_storage(tensor))
        if spans is None:
            return set()
        first, last = _span(tensor)
        return {module for begin, end, module in spans if first < end and begin < last}


def _storage(tensor: object) -> StorageWeakRef | None:
    """Return a key that stays unique after the memory is freed and can report that it was freed.

    None for objects that are not tensors, and for tensors without an accessible storage, such as a
    sparse tensor or one under vmap.
    """
    if not isinstance(tensor, Tensor):
        return None
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except NotImplementedError:
        return None


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the byte offsets of a tensor's begin and end in its storage."""
    start, size = int(tensor.storage_offset()), tensor.element_size()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    length = 1 + sum((n - 1) * stride for n, stride in steps) if tensor.numel() else 0
    return start * size, (start + length) * size


def trace(model: nn.Module) -> Consumers:
    """Find the consumers by symbolic tracing; arguments with a default use it.

    Raises:
        ValueError: torch.fx cannot trace the network.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        # Trace a copy with the same tensors, as proxies may remain in a module's attributes.
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        model_copy = copy.deepcopy(model, tensors)
        # With gradients enabled, DyTLinear recomputes by means that fx cannot trace.
        with torch.no_grad():
            graph = _Tracer().trace(model_copy, concrete_args=defaults)
    except Exception as error:  # a third-party forward may raise anything on a proxy
        raise ValueError(
            f"fold cannot trace {type(model).__name__} without inputs: torch.fx failed with"
            f" {type(error).__name__}: {error}. Pass an example of the inputs, which is then run"
            " once, as in fold(model, images) or fold(model, input_ids=tokens)."
        ) from error
    owners, consumers = ParameterOwners(model), Consumers()
    for node in graph.nodes:
        module = _called_module(model, node)
        if isinstance(module, DYNAMIC):
            _record_users(model, node, module, consumers)
        elif module is not None and is_linear(module):
            source = _called_module(model, _source(model, node))
            consumers.inputs[module].add(source if isinstance(source, DYNAMIC) else None)
        elif module is not None:
            consumers.exposed |= set(module.modules())  # fx does not trace into torch's modules
        elif node.op == "get_attr" and isinstance(value := _attribute(model_copy, node), Tensor):
            consumers.exposed |= owners.of(value)
    return consumers


def _record_users(model: nn.Module, node: fx.Node, layer: nn.Module, consumers: Consumers) -> None:
    consumers.called.add(layer)
    for user in _users(model, node):
        module = _called_module(model, user)
        if module is not None and is_linear(module):
            consumers.linears[layer][module] = None
        else:
            consumers.others[layer].append(_describe(user, module))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        leaf = isinstance(module, DYNAMIC) or is_linear(module)
        return leaf or super().is_leaf_module(module, path)


def _called_module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _users(model: nn.Module, node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that read a node's values, also through dropouts and identities."""
    for user in node.users:
        if isinstance(_called_module(model, user), IDENTITY_IN_EVAL):
            yield from _users(model, user)
        elif not _reads_only_size(user):
            yield user


def _reads_only_size(user: fx.Node) -> bool:
    attribute = user.target is getattr and user.args[1] in SIZE_ATTRIBUTES
    return attribute or (user.op == "call_method" and user.target in SIZE_ATTRIBUTES)


def _source(model: nn.Module, node: fx.Node) -> fx.Node:
    """Return the node that produces a module's input, skipping dropouts and identities."""
    source = node.all_input_nodes[0]
    skipped = isinstance(_called_module(model, source), IDENTITY_IN_EVAL)
    return _source(model, source) if skipped else source


def _attribute(model: nn.Module, node: fx.Node) -> Any:
    path, _, name = str(node.target).rpartition(".")
    return getattr(model.get_submodule(path), name)


def _describe(user: fx.Node, module: nn.Module | None) -> str:
    if user.op == "output":
        return "the model returns its output"
    name = user.target if isinstance(user.target, str) else user.target.__name__
    kind = "" if module is None else f" ({type(module).__name__})"
    return f"{name}{kind} reads its output"


def _without_compilation(model: nn.Module) -> AbstractContextManager[Any]:
    """Run compiled parts eagerly: they would call neither hooks nor single operators."""
    if hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    # torch 2.4 and 2.5
    for name, module in model.named_modules():
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            raise ValueError(
                f"{name or type(module).__name__!r} is compiled, which folding with an example"
                " supports from torch 2.6. Fold first, then call torch.compile."
            )
    return nullcontext()


@torch.no_grad()
def observe(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Consumers:
    """Find the consumers in one run of model(*args, **kwargs)."""
    recorder = _OperatorRecorder(model)
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # it does not support hooks, but its operators are recorded
            # Register our hooks closest to forward, so that reads by other hooks are recorded. What
            # those hooks return is then not mistaken for the layer's output.
            for handle in (
                module.register_forward_pre_hook(recorder.enter, with_kwargs=True),
                module.register_forward_hook(recorder.leave, prepend=True, always_call=True),
            ):
                stack.callback(handle.remove)
        with _without_compilation(model), recorder, _MemoryAccessRecorder(recorder):
            result = model(*args, **kwargs)
    recorder.record_kept_outputs()
    del result  # not earlier, as it holds the outputs that the model returns
    return recorder.consumers


@dataclass(frozen=True)
class _Output:
    """The output of a layer, and its position in its storage."""

    layer: DyT | Derf
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @classmethod
    def of(cls, layer: DyT | Derf, y: Tensor) -> _Output:
        return cls(layer, tuple(y.shape), y.stride(), int(y.storage_offset()), y.dtype)

    def has_channels_of(self, view: Tensor, axis: int) -> bool:
        """True if this axis of a view of the output is the channels, in their order."""
        if self == _Output.of(self.layer, view):
            return self.layer.channel_axis == axis
        if axis != -1 or self.layer.channel_axis != -1:
            return False
        width, contiguous = self.sizes[-1], _contiguous_strides(self.sizes) == self.strides
        steps = (*view.stride()[:-1], view.storage_offset() - self.offset)
        return (
            contiguous
            and view.dtype == self.dtype
            and view.shape[-1:] == (width,)
            and view.stride(-1) == 1
            and all(step % width == 0 for step in steps)
        )


def _contiguous_strides(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(sizes, device="meta").stride()


class _OperatorRecorder(TorchDispatchMode):
    """Recorder of every operator of a run and, by hooks, of the module whose forward calls it."""

    # For example flex_attention. Operators called inside, as in torch.cond's branches, are hidden.
    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.consumers = Consumers()
        self.owners = ParameterOwners(model)
        self.paths = {module: path for path, module in model.named_modules()}
        self.outputs: dict[StorageWeakRef, _Output] = {}
        self.module_stack: list[nn.Module] = []
        self.hidden = False

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the input of a Linear (forward pre-hook)."""
        self.module_stack.append(module)
        if not is_linear(module):
            return
        x = args[0] if args else kwargs["input"]
        output = self._output_of(x)
        if output is not None and output.has_channels_of(x, channel_axis(module)):
            self.consumers.linears[output.layer][module] = None
            self.consumers.inputs[module].add(output.layer)
            return
        self.consumers.inputs[module].add(None)
        if output is not None:
            self.consumers.others[output.layer].append(
                f"{self.paths[module]} reads a view of its output with the channels at another axis"
            )

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Record the output of a DyT layer (forward hook)."""
        self.module_stack.pop()
        if not isinstance(module, DYNAMIC) or (module.weight is None and module.bias is None):
            return
        self.consumers.called.add(module)
        if (storage := _storage(output)) is not None and not self.hidden:
            self.outputs[storage] = _Output.of(module, output)
        else:
            self.consumers.others[module].append(
                "it is called inside a transform or higher-order operator, which hides its readers"
            )

    def __torch_dispatch__(
        self,
        operator: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.hidden = not isinstance(operator, OpOverload)
        result = operator(*args, **kwargs)
        self.hidden = False
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        # A view reads no values and shares its base's storage, unless the operator had to copy.
        is_view = getattr(operator, "is_view", False)
        if is_view:
            result_storages = {_storage(value) for value in tree_leaves(result)}
            is_view = result_storages <= {_storage(tensor) for tensor in inputs}
        for tensor in () if is_view else inputs:
            self.record_read(tensor, str(operator))
        return result

    def record_read(self, tensor: Tensor, name: str) -> None:
        """Record that an operator or method of this name reads the tensor's values."""
        module = self.module_stack[-1] if self.module_stack else None
        if module not in (owners := self.owners.of(tensor)):
            self.consumers.exposed |= owners
        output = self._output_of(tensor)
        if output is not None and not (module is not None and is_linear(module)):
            location = f" in {path}" if (path := self.paths.get(module)) else ""
            self.consumers.others[output.layer].append(f"{name}{location} reads its output")

    def _output_of(self, value: object) -> _Output | None:
        """Return the output whose storage a tensor shares."""
        storage = _storage(value)
        return None if storage is None else self.outputs.get(storage)

    def record_kept_outputs(self) -> None:
        """Record the outputs that are still referenced by the caller, a cache or a user's hook."""
        if not all(storage.expired() for storage in self.outputs):
            gc.collect()  # the last reference may be in a reference cycle
        for storage, output in self.outputs.items():
            if not storage.expired():
                self.consumers.others[output.layer].append("its output is returned or kept")


class _MemoryAccessRecorder(TorchFunctionMode):
    """Recorder of memory access that bypasses torch's operators, as by Triton kernels and NumPy."""

    ACCESSORS = (Tensor.data_ptr, Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)

    def __init__(self, recorder: _OperatorRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function in self.ACCESSORS:
            self.recorder.record_read(args[0], f"Tensor.{function.__name__}")
        return function(*args, **(kwargs or {}))
