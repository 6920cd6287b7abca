"""fairseq's trainer in two processes on a real Slurm: preemption, resume and matching."""

import pytest

from .conftest import Project

pytestmark = pytest.mark.slurm
LN, DYT = "wav2vec2_base.LN.0", "wav2vec2_base.DyT.0"

SHORT = """

# Shortened: one row, a smaller model, fewer updates, less speech, two processes.
run = SCALE.runs["wav2vec2_base"]
network = replace(run.config.network, conv_feature_layers=((16, 40, 20), (64, 16, 16)))
short = dict(updates=24, warmup_updates=6, eval_updates=24, eval_passes=2, log_updates=4)
short |= dict(micro_batches_per_update=2)
speech = run.needs["speech"]
speech = replace(speech, config=replace(speech.config, train=24, valid=4, voices=4))
run = replace(
    run, config=replace(run.config, network=network, **short), needs=dict(speech=speech)
)
resources = replace(SCALE.resources, minutes=30, processes=2, runs_per_job=2)
SCALE = replace(SCALE, runs=dict(wav2vec2_base=run), resources=resources)
"""


class SpeechProject(Project):
    table, page = "table5", "table05.py"

    def recipe(self):
        self.write_smoke_scale(SHORT)


def num_logged_updates(project, name):
    path = project.directory(name) / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count("gradient_norm") if path.exists() else 0


def test_fairseq_run_of_two_processes_resumes_and_is_matched(tmp_path, cluster):
    project = SpeechProject(tmp_path, cluster)
    project.site(checkpoint_steps=100_000)  # so that only the signal saves
    project.submit()
    project.wait_until(lambda: num_logged_updates(project, LN) > 0, 120)
    job = project.job(LN)
    assert cluster.job(job)["NumTasks"] == "2"
    cluster.run("scancel", "--signal=USR2", job)  # as before a time limit
    project.wait_for_results(LN, DYT, seconds=150)
    assert cluster.job(job)["Restarts"] == "1"
    assert "process 0 of 2" in project.log(LN)
    assert project.log(LN).count("interrupted after step") == 1
    assert "resumed from update" in project.log(LN)
    table = project.matched("table", "table5")
    assert "2/2" in table and "yes" in table
    for name in (LN, DYT):
        result = project.file(name, "result.json")
        assert (result["outcome"], result["steps"]) == ("done", 24)
        assert len(project.file(name, "fingerprint.json")["batches"]) == 4
