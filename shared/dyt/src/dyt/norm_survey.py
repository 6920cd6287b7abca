"""Survey of a network before conversion: the norm layers to replace, to keep and to leave alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import nn

from dyt.conversion_report import Kept, count_by_class
from dyt.layers import Derf, DyT
from dyt.norm_detection import NormSpec, is_norm_like, read_listed, read_norm
from dyt.norm_layout import Also, read_layout
from dyt.path_patterns import matches

DYNAMIC = (DyT, Derf)


@dataclass(frozen=True)
class Site:
    """A norm layer to replace, and every path that leads to it."""

    paths: tuple[str, ...]
    module: nn.Module
    spec: NormSpec


@dataclass
class Survey:
    """The norm layers of a network: to replace, kept by `skip`, and not convertible."""

    sites: list[Site] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    left: list[Kept] = field(default_factory=list)


def _paths(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Return every module with all of its paths; a shared module has several."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    return paths


def survey_norms(model: nn.Module, also: Also, skip: tuple[str, ...]) -> Survey:
    """Return the norm layers of a network.

    Raises:
        ValueError: a layer that is not skipped cannot be replaced.
    """
    survey = Survey()
    for module, paths in _paths(model).items():
        label = Kept(paths[0], type(module).__name__)
        skipped = any(matches(pattern, path) for pattern in skip for path in paths)
        try:
            spec = _read(module, also)
        except ValueError as reason:
            if not skipped:
                raise ValueError(
                    f"{paths[0]!r} ({label.layer}) cannot be replaced: {reason}."
                    f" Leave it alone with skip=({paths[0]!r},), or build the network without it."
                ) from None
            survey.kept.append(label)
            continue
        if spec is None:
            if is_norm_like(module):
                survey.left.append(label)
        elif skipped:
            survey.kept.append(label)
        else:
            survey.sites.append(Site(tuple(paths), module, spec))
    return survey


def _read(module: nn.Module, also: Also) -> NormSpec | None:
    """Return the spec of a norm layer or of a listed class, or None for any other module."""
    listed = next((kind for kind in also if isinstance(module, kind)), None)
    if listed is None:
        return read_norm(module)
    layout = also[listed]
    return read_listed(module) if layout is None else read_layout(module, layout)


def check_survey(model: nn.Module, survey: Survey, also: Also, skip: tuple[str, ...]) -> None:
    """Raise ValueError if nothing is left to replace, or a pattern or class matches nothing."""
    if any("" in site.paths for site in survey.sites):
        raise ValueError(
            f"The model is itself a norm layer ({type(model).__name__}), which cannot be replaced"
            " in place. Convert the network that contains it, or build dyt.DyT directly."
        )
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    for pattern in skip:
        if not any(matches(pattern, path) for path in paths):
            raise ValueError(
                f"skip pattern {pattern!r} matches no module of {type(model).__name__}. Correct"
                " it (see model.named_modules()) or remove it."
            )
    for kind in also:
        if not any(isinstance(module, kind) for module in model.modules()):
            raise ValueError(
                f"also lists {kind.__name__}, but {type(model).__name__} has none. Remove it."
            )
    if not survey.sites:
        raise ValueError(_no_norm_message(model, survey))


def _no_norm_message(model: nn.Module, survey: Survey) -> str:
    message = f"{type(model).__name__} has no LN or RMSNorm to replace."
    converted = Counter(
        type(module).__name__ for module in model.modules() if isinstance(module, DYNAMIC)
    )
    if converted:
        layers = ", ".join(f"{n} × {name}" for name, n in converted.items())
        message += f" It has {layers}: it seems to be converted already."
    if survey.kept:
        message += f" Kept by skip: {count_by_class(survey.kept)}."
    if survey.left:
        message += (
            f" It has {count_by_class(survey.left)}: to replace these, pass their classes, as in"
            f" also=({survey.left[0].layer},)."
        )
    return message
