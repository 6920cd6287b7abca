"""Events of module construction: complete networks, modules attached later, and new optimizers.

nn.Module has no event for a constructor that has returned. While a block observes, the `__init__`
of every subclass is therefore wrapped on the class itself, as DeepSpeed's zero.Init does, so names
that were imported earlier (`from torch.nn import LayerNorm`) are covered. The last block that ends
restores the original functions. A wrapper only calls the original in a thread that has no block,
and while torch.compile traces.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook


class Observer(Protocol):
    """Receiver of the events of one block."""

    def created(self, module: nn.Module) -> None:
        """`module` is new: its constructor starts, or it was copied or unpickled."""

    def completed(self, module: nn.Module) -> None:
        """The constructor of `module`, which no other constructor called, has returned."""

    def attached(self, parent: nn.Module, name: str, child: nn.Module) -> nn.Module | None:
        """`child` becomes a child of a complete module; return what to attach in its place."""

    def optimizer_created(self, optimizer: torch.optim.Optimizer) -> None:
        """The base constructor of `optimizer` has returned."""


class _Thread(threading.local):
    """The blocks of a thread, innermost last, and the constructors that are running."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self.depth = 0


_thread = _Thread()
_lock = threading.Lock()
_blocks = 0
_restore: list[Callable[[], None]] = []


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Send the events of this thread to `observer` until the block ends.

    An inner block receives the events in place of the outer one.
    """
    global _blocks
    with _lock:
        if _blocks == 0:
            _install()
        _blocks += 1
    depth, _thread.depth = _thread.depth, 0
    _thread.observers.append(observer)
    try:
        yield
    finally:
        _thread.observers.pop()
        _thread.depth = depth
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _uninstall()


def current_observer() -> Observer | None:
    """Return the innermost block of this thread; None while torch.compile traces."""
    # First, because torch.compile evaluates it while tracing and does not trace the rest.
    if torch.compiler.is_compiling():
        return None
    return _thread.observers[-1] if _thread.observers else None


def _install() -> None:
    pending: list[type[nn.Module]] = [nn.Module]
    seen = set()
    while pending:
        cls = pending.pop()
        if cls not in seen:
            seen.add(cls)
            _wrap_class(cls)
            pending += type.__subclasses__(cls)
    _replace(nn.Module, "__setstate__", _wrap_setstate(nn.Module.__setstate__))
    _replace(torch.optim.Optimizer, "__init__", _wrap_optimizer(torch.optim.Optimizer.__init__))
    _wrap_future_classes()
    hook: Any = _on_registration  # annotated as if its result were not used
    _restore.append(register_module_module_registration_hook(hook).remove)


def _uninstall() -> None:
    while _restore:
        _restore.pop()()


def _replace(cls: type, name: str, value: Any) -> None:
    """Set a class attribute, and restore it at the end unless other code has replaced it since."""
    original = cls.__dict__[name]

    def restore() -> None:
        if cls.__dict__.get(name) is value:
            setattr(cls, name, original)

    setattr(cls, name, value)
    _restore.append(restore)


def _wrap_class(cls: type[nn.Module]) -> None:
    """Wrap the functions defined by this class that return a complete module."""
    init = cls.__dict__.get("__init__")
    if isinstance(init, FunctionType):
        _replace(cls, "__init__", _wrap_init(init))
    builder = cls.__dict__.get("from_pretrained")
    if isinstance(builder, classmethod) and isinstance(builder.__func__, FunctionType):
        _replace(cls, "from_pretrained", classmethod(_wrap_builder(builder.__func__)))


def _wrap_future_classes() -> None:
    """Wrap classes that are defined inside of the block as soon as they exist."""
    module: Any = nn.Module
    previous = module.__dict__.get("__init_subclass__")

    def wrap_subclass(cls: Any, /, **options: Any) -> None:
        if previous is not None:
            previous.__get__(None, cls)(**options)
        else:
            super(module, cls).__init_subclass__(**options)
        _wrap_class(cls)

    hook = classmethod(wrap_subclass)

    def restore() -> None:
        if module.__dict__.get("__init_subclass__") is not hook:
            return
        if previous is None:
            del module.__init_subclass__
        else:
            module.__init_subclass__ = previous

    module.__init_subclass__ = hook
    _restore.append(restore)


def _wrap_init(init: Any) -> Any:
    @functools.wraps(init)
    def __init__(self: nn.Module, *args: Any, **options: Any) -> None:
        observer = current_observer()
        if observer is None:
            init(self, *args, **options)
            return
        observer.created(self)
        _thread.depth += 1
        try:
            init(self, *args, **options)
        finally:
            _thread.depth -= 1
        if _thread.depth == 0:
            observer.completed(self)

    return __init__


def _wrap_builder(build: Any) -> Any:
    """Wrap a `from_pretrained`, whose network is complete once its weights are loaded."""

    @functools.wraps(build)
    def from_pretrained(cls: type, *args: Any, **options: Any) -> Any:
        observer = current_observer()
        if observer is None:
            return build(cls, *args, **options)
        _thread.depth += 1
        try:
            result = build(cls, *args, **options)
        finally:
            _thread.depth -= 1
        built = result[0] if isinstance(result, tuple) and result else result
        if _thread.depth == 0 and isinstance(built, nn.Module):
            observer.completed(built)
        return result

    return from_pretrained


def _wrap_setstate(setstate: Any) -> Any:
    """Wrap `__setstate__`, which copy.deepcopy and pickle call instead of `__init__`."""

    @functools.wraps(setstate)
    def __setstate__(self: nn.Module, state: Any) -> None:
        setstate(self, state)
        observer = current_observer()
        if observer is not None:
            observer.created(self)

    return __setstate__


def _wrap_optimizer(init: Any) -> Any:
    @functools.wraps(init)
    def __init__(self: torch.optim.Optimizer, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        observer = current_observer()
        if observer is not None:
            observer.optimizer_created(self)

    return __init__


def _on_registration(parent: nn.Module, name: str, child: nn.Module | None) -> nn.Module | None:
    observer = current_observer()
    if observer is None or child is None or _thread.depth:
        return None
    return observer.attached(parent, name, child)
