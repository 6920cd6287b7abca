"""lm-eval's own command with the model "dyt-llama" and the module that its task record lacks.

    python -m dyt_llama.lm_eval_command run --model dyt-llama --model_args pretrained=FOLDER \\
        --tasks arc_easy,hellaswag

All options are lm-eval's (``lm-eval run --help``). It finds models by a table in its own code, so
the model is registered here. FOLDER is the folder "weights" of a pretraining run.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import model_registry

from dyt_llama import squad_metrics


def main() -> None:
    """Register what lm-eval lacks, and run its command."""
    model_registry.register("dyt-llama", target="dyt_llama.lm_eval_model:DyTLlamaLM")
    squad_metrics.install()
    cli_evaluate()


if __name__ == "__main__":
    main()
