"""ICLR 2025 submission, Table 4, task by task: every zero-shot metric that table04.py averages.

    Command    make table FILE=recipes/iclr2025/table04_tasks.py SCALE=paper

The runs are those of table04.py. The papers print averages only.
"""

from matched import Table
from recipes.cvpr2025.table04 import RMSNORM_VS_DYT
from recipes.cvpr2025.table04_tasks import by_task
from recipes.iclr2025.smoke.table04 import SCALE
from recipes.iclr2025.table04 import PAPER

TABLE = Table(
    arms=RMSNORM_VS_DYT,
    scales=by_task(SCALE, PAPER),
    title="ICLR 2025 submission, Table 4, task by task",
    labels={
        "llama_1b4": "LLaMA-1.4B",
        "llama_7b": "LLaMA-7B",
    },
)
