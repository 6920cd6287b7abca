"""CVPR 2025, Table 4, task by task: every zero-shot metric that table04.py averages.

    Command    make table FILE=recipes/cvpr2025/table04_tasks.py SCALE=paper

The runs are those of table04.py. The papers print averages only.
"""

from dataclasses import replace

from dyt_llama.zero_shot_tasks import FIFTEEN, GLOSS_WORD
from matched import Scale, Table
from recipes.cvpr2025.smoke.table04 import SCALE
from recipes.cvpr2025.table04 import PAPER, RMSNORM_VS_DYT, task_metrics


def by_task(smoke: Scale, paper: Scale) -> tuple[Scale, Scale]:
    """The scales of a table with the metrics of each task."""
    return (
        replace(smoke, metrics=task_metrics((GLOSS_WORD,))),
        replace(paper, metrics=task_metrics(FIFTEEN)),
    )


TABLE = Table(
    arms=RMSNORM_VS_DYT,
    scales=by_task(SCALE, PAPER),
    title="CVPR 2025, Table 4, task by task",
    labels={
        "llama_7b": "LLaMA 7B",
        "llama_13b": "LLaMA 13B",
        "llama_34b": "LLaMA 34B",
        "llama_70b": "LLaMA 70B",
    },
)
