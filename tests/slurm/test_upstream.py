"""An unmodified script on two nodes of a real Slurm: one torchrun per node, and its result."""

import pytest

from .conftest import RECIPES, Project

pytestmark = pytest.mark.slurm
LN, DYT = "miniature_ddp.LN.0", "miniature_ddp.DyT.0"

TABLE = """
from dataclasses import replace

from dyt import Norm
from matched import Arm, Table
from recipes.upstream.common import SMOKE, miniature

TABLE = Table(
    arms=(Arm(name="LN", norm=Norm.own()), Arm(name="DyT", norm=Norm.dyt(2.0))),
    scales=(
        replace(
            SMOKE,
            arm_norms=None,
            runs={"miniature_ddp": miniature(processes=2, width=16, depth=1, epochs=2, steps=4)},
            resources=replace(SMOKE.resources, processes=2, minutes=30),
            resource_overrides={},
        ),
    ),
    title="Two nodes",
    labels={"miniature_ddp": "miniature, two nodes"},
)
"""


class UpstreamProject(Project):
    table = "two_nodes.py"

    def recipe(self):
        self._signatures = {}
        self.write(self.table, TABLE)
        self.write("recipes/upstream/common.py", (RECIPES / "upstream/common.py").read_text())


def test_script_runs_on_two_nodes_with_one_torchrun_each(tmp_path, cluster):
    project = UpstreamProject(tmp_path, cluster)
    project.site(gpus_per_node=1)
    project.submit()
    job = cluster.job(project.job(LN))
    nodes, _, _ = job["NumNodes"].partition("-")  # "2-2" until the job starts
    assert (nodes, job["NumTasks"]) == ("2", "2")
    project.wait_for_results(LN, DYT, seconds=150)
    assert "yes" in project.matched("table", project.table), "the pair is matched"
    for name in (LN, DYT):
        result = project.file(name, "result.json")
        assert (result["outcome"], result["steps"]) == ("done", 1)
        assert result["details"]["norms"] == {"Adder": 3}
