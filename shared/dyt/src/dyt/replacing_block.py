"""`replacing`: a block in which networks are built with another norm, from unchanged code.

A network is converted when the constructor of its outermost module returns. Substituting the norm
class itself would be simpler, but the network would then differ from that of `convert`: loops over
parameters in constructors would draw random numbers for α, hand-written norms and names imported
earlier would be missed, and pretrained norms could not be loaded. Converting when an optimizer, the
first forward pass or DDP sees the network would be too late: by then scripts have copied it for an
EMA, divided its parameters into groups and compared names with a checkpoint. Further properties:

- Weight initialization in constructors sees the norm layers, with the same random numbers.
- `isinstance(module, nn.LayerNorm)` is true for the DyT layer (`dyt.norm_subclasses`), so weight
  decay and initialization by class treat it as they treat the norm.
- Rules by dimension see α as one-dimensional, like γ. If a rule by name gives an optimizer γ but
  not α, α joins the parameter group of its γ, and a line says so.
- Copies by deepcopy, EMA, DDP, FSDP and torch.compile get the converted network.
- State dicts have the names of `convert`. A strict load of LN weights fails on the missing α; a
  layer that is missing entirely, such as a new final norm, is reported by its γ and β alone.
- A norm that is attached to a network after its construction is replaced when it is attached.
- `from_pretrained` methods count as constructors, so weights are loaded into the norm layers first.

The block belongs to the thread that enters it; networks built in other threads are not changed. An
inner block applies in place of the outer one. Networks built before the block are left alone.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dyt.construction_events import current_observer, observe
from dyt.conversion import check_norm, check_skip, replace_sites
from dyt.conversion_report import Kept, Replacement, Report
from dyt.functional_norms import functional_norm_calls
from dyt.layers import Derf
from dyt.norm_config import Norm
from dyt.norm_detection import is_norm_like
from dyt.norm_layout import NormLayout, check_also
from dyt.norm_subclasses import ReplacedNorm, as_instance_of
from dyt.norm_survey import survey_norms
from dyt.path_patterns import matches
from dyt.per_path_alpha0 import check_patterns_used
from dyt.replacing_report import Network, list_notes, nothing_message, summarize, write_report
from dyt.unassigned_alphas import add_missing_scalars, layers_without_optimizer

AlsoNames = Mapping["type[nn.Module] | str", "NormLayout | None"]
"""Further classes to convert; a name is that of a class that is imported or defined later."""


class ReplacementError(ValueError):
    """A mistake of the user of `replacing`, such as a pattern that matches nothing."""


@contextmanager
def replacing(
    norm: Norm | None = None,
    *,
    skip: str | Iterable[str] = (),
    also: Any = (),
    report_file: str | os.PathLike[str] | None = None,
) -> Iterator[Block]:
    """Convert every network that is built in the block, as `convert` does.

    Prints one line with the number of replaced layers at the first optimizer step, or at the end of
    the block if there is none, and further lines for calls of functional norms, which cannot be
    replaced. `Norm.own()` changes nothing, and the line counts the layers that would be replaced.

    Args:
        norm: the norm to insert; DyT by default.
        skip: globs of module paths to leave alone, as for `convert`. Paths start at the outermost
            module under construction; the name of its class may precede them ("TextEncoder.*").
        also: further norm classes, as for `convert`; a name ("BatchNorm2d", "package.module.Norm")
            is that of a class which is defined or imported in the block.
        report_file: a file for the report, with the path of every layer, as JSON.

    Yields:
        The block, whose `networks` are the converted networks so far.

    Raises:
        ReplacementError: (a ValueError) at the first optimizer step or at the end of the block, if
            no norm was replaced, or a pattern or class matched nothing.
    """
    block = Block(norm or Norm(), skip, also, report_file)
    handle = register_optimizer_step_pre_hook(block.before_step)
    try:
        with observe(block):
            try:
                yield block
            except SystemExit as ending:
                if not ending.code:
                    block.check()
                raise
            block.check()
    finally:
        handle.remove()


class Block:
    """The networks of one `replacing` block, and the observer of their construction.

    Attributes:
        norm: the requested norm.
        networks: the networks with norm layers, in the order in which they were completed. Each
            layer is listed once, under the first complete network that contains it.
    """

    def __init__(self, norm: Norm, skip: Any, also: Any, report_file: Any) -> None:
        check_norm(norm)
        if norm.calibrated:
            raise ReplacementError(
                f"{norm} needs data, which a block does not have. Give a number, or call"
                " dyt.convert(model, calibrate=batch) in the script."
            )
        self.norm = norm
        self.networks: list[Network] = []
        self._skip = check_skip(skip)
        self._also = _check_also_names(also)
        self._report_file = None if report_file is None else Path(report_file).absolute()
        self._unmatched: set[Any] = {*self._skip, *self._also}
        # By id, because modules may define equality without a hash.
        self._new: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self._decided: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._classes: set[type[nn.Module]] = set()
        self._replaced_classes: set[type[nn.Module]] = set()
        self._converting = False
        self._stepped = False
        self._added = 0
        self._reported: int | None = None

    # Events, see construction_events.Observer.

    def created(self, module: nn.Module) -> None:
        if not self._converting:
            self._new[id(module)] = module

    def completed(self, module: nn.Module) -> None:
        if self._converting or isinstance(module, (torch.fx.GraphModule, torch.jit.ScriptModule)):
            return
        if not self._is_norm(module):  # a norm by itself is replaced when it is attached
            self._convert(module)

    def attached(self, parent: nn.Module, name: str, child: nn.Module) -> nn.Module | None:
        if self._converting or not self._is_undecided(child) or not self._is_norm(child):
            return None
        parent._modules[name] = child  # what the registration that is running will do
        self._convert(parent, only=child)
        return parent._modules[name]

    def optimizer_created(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizers.add(optimizer)
        self._added += add_missing_scalars(optimizer, self._layers())

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, options: Any) -> None:
        """Check and report before the first step of an optimizer in this block."""
        if not self._stepped and current_observer() is self:
            self._stepped = True
            self.check()

    # Conversion.

    def _is_undecided(self, module: nn.Module) -> bool:
        key = id(module)
        return self._new.get(key) is module and self._decided.get(key) is not module

    def _layers(self) -> list[nn.Module]:
        return [layer for layer in self._decided.values() if isinstance(layer, ReplacedNorm)]

    def _is_norm(self, module: nn.Module) -> bool:
        return is_norm_like(module) or bool(self._layouts([module]))

    def _layouts(self, modules: Iterable[nn.Module]) -> dict[type[nn.Module], NormLayout | None]:
        """Return the classes of `also` that these modules have, with their layouts."""
        layouts = {}
        for module in modules if self._also else ():
            for kind in type(module).__mro__:
                full_name = f"{kind.__module__}.{kind.__qualname__}"
                for key in (kind, kind.__name__, full_name):
                    if key in self._also and not isinstance(module, ReplacedNorm):
                        layouts[kind] = self._also[key]
                        self._unmatched.discard(key)
        return layouts

    def _patterns(self, network: nn.Module) -> tuple[str, ...]:
        """Return the patterns of `skip` for the paths of one network."""
        prefix = f"{type(network).__name__}."
        patterns = []
        paths = [path for path, _ in network.named_modules(remove_duplicate=False)]
        for pattern in self._skip:
            local = {pattern}
            if f"{pattern}." == prefix:
                local.add("*")
            elif pattern.startswith(prefix):
                local.add(pattern.removeprefix(prefix))
            used = [p for p in local if any(matches(p, path) for path in paths)]
            if used:
                self._unmatched.discard(pattern)
            patterns += used
        return tuple(patterns)

    def _convert(self, network: nn.Module, only: nn.Module | None = None) -> None:
        """Convert a complete network, or only one layer of it, and list what was replaced."""
        self._converting = True
        try:
            self._classes |= {type(module) for module in network.modules()}
            modules = [only] if only is not None else network.modules()
            undecided = {id(module) for module in modules if self._is_undecided(module)}
            report = self._replace(network, undecided)
        except ValueError as error:
            raise ReplacementError(f"{type(network).__name__}: {error}") from error
        finally:
            self._converting = False
        if report.replacements or report.kept or report.left:
            self.networks.append(Network(type(network).__name__, report, weakref.ref(network)))
        if any(replacement.replaced for replacement in report):
            network.register_load_state_dict_post_hook(drop_alpha_of_missing_layers)

    def _replace(self, network: nn.Module, undecided: set[int]) -> Report:
        """Replace the norm layers whose ids are given; decide on all of these modules."""

        def unchanged(labels: Iterable[Kept]) -> tuple[Kept, ...]:
            modules = {label: network.get_submodule(label.path) for label in labels}
            return tuple(label for label, module in modules.items() if id(module) in undecided)

        survey = survey_norms(network, self._layouts(network.modules()), self._patterns(network))
        kept, left = unchanged(survey.kept), unchanged(survey.left)
        copies = [
            _describe_copy(path, module)
            for path, module in network.named_modules()
            if isinstance(module, ReplacedNorm) and id(module) in undecided
        ]
        sites = [site for site in survey.sites if id(site.module) in undecided]
        replacements = [*copies, *replace_sites(network, sites, self.norm)]
        for site in sites:
            layer = network.get_submodule(site.paths[0])
            if layer is not site.module:
                self._replaced_classes.add(type(site.module))
                as_instance_of(layer, type(site.module))
        for path in [r.path for r in replacements] + [label.path for label in (*kept, *left)]:
            module = network.get_submodule(path)
            self._decided[id(module)] = module
        order = {path: i for i, (path, _) in enumerate(network.named_modules())}
        replacements.sort(key=lambda replacement: order[replacement.path])
        return Report(
            norm=self.norm,
            replacements=tuple(replacements),
            kept=kept,
            left=left,
            skip=self._skip,
        )

    # Checks and reports.

    @property
    def replacements(self) -> list[Replacement]:
        """The norm layers of all networks so far."""
        return [replacement for network in self.networks for replacement in network.report]

    def check(self) -> None:
        """Report what was replaced; raise ReplacementError if nothing was."""
        if not self.replacements:
            alone = [m for m in self._new.values() if self._is_undecided(m) and self._is_norm(m)]
            calls = functional_norm_calls(self._classes, ())
            raise ReplacementError(nothing_message(self.networks, alone, calls))
        for unmatched in self._unmatched:
            name = unmatched if isinstance(unmatched, str) else unmatched.__name__
            option = "skip" if unmatched in self._skip else "also"
            names = ", ".join(dict.fromkeys(network.name for network in self.networks))
            raise ReplacementError(
                f"{option} has {name!r}, which matches nothing in {names}. Correct or remove it."
            )
        try:
            paths = [(r.path, *r.aliases) for r in self.replacements]
            check_patterns_used(self.norm.alpha0_at, paths)
        except ValueError as error:
            raise ReplacementError(str(error)) from None
        if self._reported != len(self.replacements) and os.environ.get("RANK", "0") == "0":
            self._reported = len(self.replacements)
            self._print()

    def _print(self) -> None:
        """Print the summary and write the report."""
        summary = summarize(self.norm, self.networks)
        calls = functional_norm_calls(self._classes, self._replaced_classes)
        orphans = layers_without_optimizer(self._layers(), self._optimizers)
        notes = list_notes(self.networks, self._added, orphans)
        if self._report_file is not None:
            write_report(self._report_file, summary, self.networks, notes, calls)
            summary += f"; paths in {self._report_file}"
        calls = [f"a functional norm is not replaced: {call}" for call in calls]
        for line in (summary, *notes, *calls):
            print(f"dyt: {line}", file=sys.stderr, flush=True)


def drop_alpha_of_missing_layers(network: nn.Module, keys: Any) -> None:
    """Remove α and s from the missing keys of a load if γ of their layer is missing as well.

    Scripts compare the missing keys with those of the norm, as MAE's fine-tuning does for its new
    final norm. If only α is missing, the weights are those of a network with norms.
    """
    layers = [path for path, m in network.named_modules() if isinstance(m, ReplacedNorm)]

    def drops(key: str) -> bool:
        path, _, name = key.rpartition(".")
        ours = any(path == layer or path.endswith(f".{layer}") for layer in layers)
        return name in ("alpha", "shift") and ours and f"{path}.weight" in missing

    missing = set(keys.missing_keys)
    keys.missing_keys[:] = [key for key in keys.missing_keys if not drops(key)]


def _describe_copy(path: str, layer: Any) -> Replacement:
    """Describe a replaced layer that was copied, as nn.TransformerEncoder copies its layers."""
    return Replacement(
        path=path,
        old=layer.replaced_class.__name__,
        new="Derf" if isinstance(layer, Derf) else "DyT",
        alpha0=None if layer.alpha is None else layer.alpha0,
        shape=layer.normalized_shape,
        channel_axis=layer.channel_axis,
        affine=layer.weight is not None,
        bias=layer.bias is not None,
    )


def _check_also_names(also: Any) -> AlsoNames:
    """Return `also` as a mapping from class, or name of a class, to layout."""
    if isinstance(also, Mapping):
        entries: dict[Any, Any] = dict(also)
    else:
        entries = dict.fromkeys((also,) if isinstance(also, (str, type)) else also)
    check_also({nn.Module if isinstance(key, str) else key: entries[key] for key in entries})
    return entries
