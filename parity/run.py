"""Command of `make parity`: claims of equality with official code, computed from checkouts.

    python parity/run.py mae=/path/to/mae dino=/path/to/dino …

Prints a table and writes parity/results/parity.md. Upstreams without a checkout are listed as not
run; their earlier results stay in the file, with their date.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "parity.json"
MODULES = {
    "mae": ("mae",),
    "dino": ("dino",),
    "dit": ("dit", "dit_sampler"),
    "adm": ("adm_statistics",),
    "convnext": (),
    "nanogpt": (),
    "fmsfsdp": (),
    "fairseq": ("fairseq_training",),
    "transformers": (),
    "hyenadna": ("hyenadna",),
    "caduceus": ("caduceus_model",),
    "release": ("release_layer", "release_llama"),
    "liger": ("liger",),
}
"""Upstream → modules of claims about our own implementations, each run in a separate process."""
INSTALLED = ("fairseq", "transformers")
"""Upstreams that are installed packages: any folder may be given as their checkout."""
COMPANIONS = {"caduceus": "mamba"}
"""Upstream → another checkout that it needs; its path is the variable MAMBA."""
IMPORTS = {
    "mae": ("dyt_upstream.shims.mae",),
    "dino": ("dyt_upstream.shims.dino",),
    "hyenadna": ("dyt_upstream.shims.hyenadna",),
    "caduceus": ("dyt_upstream.shims.caduceus", "mamba_on_cpu"),
}
"""Upstream → modules to import before its own."""
VERSIONS = (
    *("torch", "timm", "diffusers", "transformers", "fairseq", "torch-fidelity", "numpy"),
    *("triton", "pytorch-lightning", "ibm-fms"),
)


def main(arguments: list[str]) -> int:
    """Compute the claims of the given checkouts; return 1 if one of them does not hold."""
    checkouts = {}
    known = (*MODULES, *COMPANIONS.values())
    for text in arguments:
        name, _, path = text.partition("=")
        if name not in known or not Path(path).is_dir():
            print(f"parity: {text!r} is not <upstream>=<folder>; upstreams: {', '.join(known)}")
            return 2
        checkouts[name] = Path(path).absolute()
    for name, companion in COMPANIONS.items():
        if name in checkouts and companion not in checkouts:
            print(f"parity: {name} needs a checkout of {companion}: {companion}=<folder>")
            return 2
        if companion in checkouts:
            os.environ[companion.upper()] = str(checkouts.pop(companion))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, checkout in checkouts.items():
        print(f"{name}: {checkout}", flush=True)
        results[name] = compute(name, checkout)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    table = to_markdown(results)
    (HERE / "results" / "parity.md").write_text(table)
    print(table)
    computed = [claim for name in checkouts for claim in results[name]["claims"]]
    return int(not all(claim["holds"] for claim in computed))


def compute(name: str, checkout: Path) -> dict[str, Any]:
    """Compute the claims about one upstream, in processes of their own."""
    claims: list[dict[str, Any]] = []
    for part in ("scripts", *MODULES[name]):
        done = subprocess.run(
            [sys.executable, __file__, "--part", part, name, str(checkout)],
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            text = f"{name}, {part}: computed without an error"
            claims.append({"text": text, "bound": 0, "measured": 1, "note": "", "holds": False})
        else:
            claims += json.loads(done.stdout.splitlines()[-1])
    commits = commit(checkout)
    if companion := COMPANIONS.get(name):
        commits += f", {companion} {commit(Path(os.environ[companion.upper()]))}"
    return {
        "commit": commits,
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "versions": installed_versions(),
        "claims": claims,
    }


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that are installed; fairseq is not on Python 3.14."""
    versions = {}
    for package in VERSIONS:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def compute_part(part: str, name: str, checkout: Path) -> None:
    """Print the claims of one module as JSON."""
    import torch

    torch.set_num_threads(1)
    if part == "scripts":
        from scripts import SCRIPTS

        made = list(SCRIPTS[name](checkout)) if name in SCRIPTS else []
    else:
        sys.path.append(str(HERE / "stand_ins"))
        for module in IMPORTS.get(name, ()):
            importlib.import_module(module)
        made = list(importlib.import_module(part).claims(checkout))
    print()
    print(json.dumps([claim.to_json() for claim in made], ensure_ascii=False))


def commit(checkout: Path) -> str:
    """Return the commit of a checkout, with "+" if its Python files are changed."""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    status = subprocess.run([*git, "status", "--porcelain", "*.py"], capture_output=True, text=True)
    changed = [line for line in status.stdout.splitlines() if not line.startswith("??")]
    return head.stdout.strip()[:12] + ("+" if changed else "") or "unknown"


def to_markdown(results: dict[str, Any]) -> str:
    """Return the table of all results."""
    lines = [
        "# Equality with official code",
        "",
        "`make parity` computes this table from checkouts; float32 on a CPU, one thread. A bound",
        "of 0 means bit-identical, or equal names and counts.",
    ]
    for name in MODULES:
        lines += ["", f"## {name}", ""]
        result = results.get(name)
        if result is None or not result["claims"]:
            lines.append("Not run.")
            continue
        packages = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
        source = "Installed package" if name in INSTALLED else f"Commit {result['commit']}"
        where = f"{source}, {result['date']}, Python {result['python']}, {packages}."
        lines += [where, "", "| claim | bound | measured | verdict |", "|---|---|---|---|"]
        for claim in result["claims"]:
            note = f" ({claim['note']})" if claim["note"] else ""
            verdict = "holds" if claim["holds"] else "**does not hold**"
            cells = (claim["text"] + note, f"{claim['bound']:.2g}", f"{claim['measured']:.2g}")
            lines.append(f"| {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        compute_part(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        sys.exit(main(sys.argv[1:]))
