"""The calibration step of `convert`: targets of the fit, warnings, and the fitted parameters."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from dyt.calibration import Calibration, calibrate
from dyt.calibration_fit import Fit, Form
from dyt.calibration_rows import Target
from dyt.conversion_report import Replacement
from dyt.layers import DynamicErf, DynamicTanh
from dyt.norm_config import Norm
from dyt.norm_detection import NormSpec
from dyt.norm_survey import Site

POOR_FIT = 0.5
"""Relative error above which a warning names the calibrated layer."""


def fit_sites(
    model: nn.Module,
    plan: Sequence[tuple[Site, float | None]],
    norm: Norm,
    copy_affine: bool,
    data: Any,
) -> dict[nn.Module, Fit]:
    """Return the fit for each norm layer, and warn about poor fits and layers without data."""
    if norm.alpha == "absent" and not copy_affine:
        raise ValueError(f"calibrate has nothing to fit: {norm} has no α. Remove the argument.")
    targets = [_target(site, norm, alpha0, copy_affine) for site, alpha0 in plan]
    if copy_affine:
        _check_untied([target.spec for target in targets])
    calibration = data if isinstance(data, Calibration) else Calibration(data)
    fits = calibrate(model, targets, calibration)
    missed = [target.path for target in targets if target.module not in fits]
    if missed:
        message = f"the data never reached {', '.join(missed)}; α there is {norm.alpha0:g}"
        warnings.warn(f"calibrate: {message}.", stacklevel=3)
    poor = [
        f"{target.path} ({fits[target.module].error:.2f})"
        for target in targets
        if target.module in fits and fits[target.module].error > POOR_FIT
    ]
    if poor:
        warnings.warn(
            f"calibrate: {', '.join(poor)} differ from the norm layer by more than {POOR_FIT} of"
            " its output (root mean square). Inputs of very different scales have no common α.",
            stacklevel=3,
        )
    return fits


def _target(site: Site, norm: Norm, alpha0: float | None, copy_affine: bool) -> Target:
    spec = site.spec
    affine: Literal["none", "weight", "both"] = "none"
    old_weight = None
    assert not isinstance(norm.alpha0, str), "convert replaces 'calibrated' by a number"
    if copy_affine and spec.weight is not None:
        affine = "weight" if spec.bias is None else "both"
        old_weight = (spec.weight.detach().float() + spec.offset).reshape(-1)
    form = Form(
        squash=norm.squash,
        alpha=norm.alpha != "absent",
        shift=norm.squash == "erf",
        affine=affine,
        old_weight=old_weight,
        alpha0=norm.alpha0 if alpha0 is None else alpha0,
    )
    return Target(path=site.paths[0], module=site.module, spec=spec, form=form)


def _check_untied(specs: Sequence[NormSpec]) -> None:
    parameters = [p for spec in specs for p in (spec.weight, spec.bias) if p is not None]
    if len(set(map(id, parameters))) < len(parameters):
        raise ValueError(
            "calibrate with copy_affine fits γ and β of each layer, but some norm layers share"
            " them. Untie them first, or calibrate without copy_affine."
        )


def add_fit(replacement: Replacement, fit: Fit | None) -> Replacement:
    if fit is None:
        return replacement
    return dataclasses.replace(replacement, alpha0=fit.alpha, fit=fit)


@torch.no_grad()
def set_fit(layer: DynamicTanh | DynamicErf, fit: Fit | None) -> None:
    """Set the fitted parameters; `reset_parameters` gives the fitted α and s as well."""
    if fit is None:
        return
    if fit.alpha is not None and layer.alpha is not None:
        layer.alpha0 = fit.alpha
        layer.alpha.fill_(fit.alpha)
    if fit.shift is not None and layer.shift is not None:
        layer.shift0 = fit.shift
        layer.shift.fill_(fit.shift)
    for parameter, value in ((layer.weight, fit.weight), (layer.bias, fit.bias)):
        if value is not None and parameter is not None:
            parameter.copy_(value.view_as(parameter))
