"""DyT layers that are also instances of the norm class they replace.

Training scripts select norm layers by class, as in `isinstance(module, nn.LayerNorm)` to exempt
them from weight decay. If a DyT layer did not pass that test, the arms would differ in more than
the norm. The class of a layer is therefore made a subclass of both; DyT's methods come first.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import nn

from dyt.layers import Derf, DyT


class ReplacedNorm:
    """Mixin of the layers of this module; `replaced_class` is the class of the old layer."""

    if TYPE_CHECKING:  # TorchScript reads annotations of a class
        replaced_class: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the two classes, because the combined class has no importable name."""
        reduced: Any = super().__reduce_ex__(protocol)
        dynamic: Any = type(self).__mro__[2]
        return (_new, (dynamic, self.replaced_class), *reduced[2:])


def as_instance_of(layer: nn.Module, replaced: Any) -> nn.Module:
    """Return the layer, changed in place to an instance of `replaced` as well.

    Unchanged if it is not a DyT or Derf layer, or is an instance already.
    """
    if isinstance(layer, (DyT, Derf)) and not isinstance(layer, replaced):
        dynamic: Any = type(layer)
        layer.__class__ = _combined(dynamic, replaced)
    return layer


@cache
def _combined(dynamic: Any, replaced: Any) -> Any:  # classes
    # The name contains the old one, because some scripts compare names.
    name = f"{dynamic.__name__}{replaced.__name__}"
    members = {
        "replaced_class": replaced,
        "__module__": __name__,
        # TorchScript would look for the attributes that the old class lists, such as eps.
        "__annotations__": {},
        "__constants__": (),
    }
    return type(name, (ReplacedNorm, dynamic, replaced), members)


def _new(dynamic: Any, replaced: Any) -> nn.Module:
    kind: type[nn.Module] = _combined(dynamic, replaced)
    return kind.__new__(kind)
