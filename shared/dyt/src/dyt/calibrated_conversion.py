"""The calibration step of `convert`: targets of the fit, warnings, and the fitted parameters."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dyt.calibration import Calibration, calibrate
from dyt.calibration_fit import Affine, Fit, Form
from dyt.calibration_rows import Target
from dyt.conversion_report import Replacement
from dyt.layers import Derf, DyT
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
    calibration = data if isinstance(data, Calibration) else Calibration(data)
    specs = [site.spec for site, _ in plan]
    tied = _tied(specs)
    if copy_affine and tied:
        raise ValueError(
            "calibrate with copy_affine fits γ and β of each layer, but some norm layers share"
            " them. Untie them first, or calibrate without copy_affine."
        )
    targets = []
    for site, alpha0 in plan:
        scale = calibration.gamma == "scale" and site.spec.weight not in tied
        affine = _affine(site.spec, norm, copy_affine, scale)
        targets.append(_target(site, norm, alpha0, affine))
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


def _affine(spec: NormSpec, norm: Norm, copy_affine: bool, scale: bool) -> Affine:
    """Return which of γ and β to fit."""
    if spec.weight is None:
        return "none"
    if copy_affine:
        return "weight" if spec.bias is None else "both"
    # With a sigmoid, which is not odd, the output at small α is a constant.
    return "scale" if scale and norm.alpha != "absent" and norm.squash != "sigmoid" else "none"


def _target(site: Site, norm: Norm, alpha0: float | None, affine: Affine) -> Target:
    spec = site.spec
    old_weight = None
    assert not isinstance(norm.alpha0, str), "convert replaces 'calibrated' by a number"
    if affine in ("weight", "both"):
        assert spec.weight is not None
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


def _tied(specs: Sequence[NormSpec]) -> set[nn.Parameter]:
    """Return the parameters that several norm layers share."""
    counts = Counter(p for spec in specs for p in (spec.weight, spec.bias) if p is not None)
    return {parameter for parameter, count in counts.items() if count > 1}


def add_fit(replacement: Replacement, fit: Fit | None) -> Replacement:
    if fit is None:
        return replacement
    return dataclasses.replace(replacement, alpha0=fit.alpha, fit=fit)


@torch.no_grad()
def set_fit(layer: DyT | Derf, fit: Fit | None) -> None:
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
