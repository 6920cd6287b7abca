"""Networks and checks of the tests of `fold`."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from dyt import Derf, DyT, fold

X = torch.linspace(-2, 2, 3 * 4 * 8).view(3, 4, 8)
EXAMPLE = pytest.mark.parametrize("example", [True, False], ids=["example", "traced"])


def randomized(net: nn.Module) -> nn.Module:
    """Return the network with random γ, β, α and s, in evaluation mode."""
    for module in net.modules():
        if isinstance(module, (DyT, Derf)):
            for p in module.parameters():
                nn.init.normal_(p, 0.7, 0.3)
    return net.eval()


def fold_and_compare(net, *args, folded: int, tolerance=1e-5, example=True, **kwargs):
    """Fold the network, with or without an example, compare its outputs, and return the report."""
    with torch.no_grad():
        before = net(*args, **kwargs)
        report = fold(net, *args, **kwargs) if example else fold(net)
        after = net(*args, **kwargs)
    assert len(report.folded) == folded
    before, after = (y if isinstance(y, torch.Tensor) else y.logits for y in (before, after))
    assert after.dtype == before.dtype
    torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance)
    return report


def sequential(norm=None, **options) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(fc=nn.Linear(8, 8), norm=norm or DyT(8), head=nn.Linear(8, 5, **options))
    )


def assert_reason(report, reason):
    assert re.search(reason, report.left[0].reason), report.left[0].reason
