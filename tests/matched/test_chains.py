"""Chains of needs, four deep, with one run that all rows and arms share at two depths."""

import re

import pytest

from matched import job_packing
from matched.status import FailureKind

CHAINS = """
from chain import Encode, Sample, Score, Train

LATENTS = Run(task="chain:encode", config=Encode())


def chain(model):
    trained = Run(task="chain:train", config=Train(model=model), needs={"latents": LATENTS})
    samples = Run(task="chain:sample", config=Sample(), needs={"trained": trained})
    return Run(
        task="chain:score", config=Score(), needs={"samples": samples, "reference": LATENTS}
    )


SCALE = scale(seeds=(0, 1), small=chain("small"), large=chain("large"))
TABLE = Table(arms=ARMS, scales=(SCALE,))
"""
RUNS = 1 + 2 * 2 * 2 * 3
"""The shared run, and three runs for each of two rows, two arms and two seeds."""


@pytest.fixture
def chains(project):
    project.recipe(CHAINS)
    return project


def computed(project):
    return (project.root / "computed.txt").read_text(encoding="utf-8").splitlines()


def planned(project, title):
    (found,) = (planned for planned in project.plan().runs if planned.title == title)
    return found


def test_plan_lists_a_shared_need_once_and_first(chains):
    told = chains.cli("plan", "table1")
    assert f"{RUNS} of {RUNS} runs to do" in told
    titles = [planned.title for planned in chains.plan().runs]
    assert titles[:4] == [
        "small · LN · seed 0 · samples · trained · latents",
        "small · LN · seed 0 · samples · trained",
        "small · LN · seed 0 · samples",
        "small · LN · seed 0",
    ]
    assert told.count("chain:encode") == 1


@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_table_of_chains_is_computed_with_matched_pairs(chains, cluster):
    chains.site("[local]\nworkers = 2\n")
    told = chains.compute("submit", "table1", "--cluster", cluster, "--wait")
    assert f"{RUNS} of {RUNS} runs submitted" in told
    names = computed(chains)
    assert len(names) == RUNS and names.count("encode") == 1 and names[0] == "encode"
    for row in ("small", "large"):
        for arm in ("LN", "DyT"):
            made = planned(chains, f"{row} · {arm} · seed 1").directory / "made.txt"
            assert made.read_text(encoding="utf-8") == (
                "score(reference: encode(), "
                f"samples: sample(trained: train {row} {arm} 1(latents: encode())))"
            )
    lines = re.findall(r"^ *(?:Small_1|Large) .*", chains.cli("table", "table1"), re.MULTILINE)
    assert [line.split()[-2:] for line in lines] == [["4/4", "yes"]] * 2
    audit = chains.cli("audit", "table1")
    assert audit.count(" matched") == 4 and "unknown" not in audit and "not matched" not in audit
    assert "needs.samples.needs.trained.config.norm: 'LN' → 'DyT'" in audit
    assert chains.cli("status", "table1").count(" done ") == RUNS
    assert f"0 of {RUNS} runs submitted" in chains.compute("submit", "table1")


def test_shared_need_without_fingerprint_is_matched(chains):
    chains.recipe(CHAINS.replace("chain:encode", "chain:encode_without_fingerprint"))
    chains.compute("submit", "table1", "--cluster", "debug")
    assert chains.cli("audit", "table1").count(" matched") == 4


def test_audit_finds_a_difference_deep_in_a_chain(chains):
    chains.compute("submit", "table1", "--cluster", "debug")
    trained = planned(chains, "large · DyT · seed 1 · samples · trained").directory
    (trained / "fingerprint.json").write_text('{"weights": "x", "batches": ["b"]}', "utf-8")
    told = chains.cli("audit", "table1", code=1)
    assert told.count("not matched: trained: fingerprints differ in weights") == 1
    assert (
        "NOT MATCHED: large, DyT, seed 1: trained: fingerprints differ in weights."
        in chains.cli("table", "table1", code=1)
    )


def test_resource_overrides_reach_deep_into_a_chain(chains):
    more = 'resource_overrides={"large/samples/trained/latents": replace(SCALE.resources, gpus=8)}'
    chains.recipe(CHAINS.replace("TABLE =", f"SCALE = replace(SCALE, {more})\nTABLE ="))
    asked = {planned.title: planned.resources.gpus for planned in chains.plan().runs}
    shared, *others = asked.values()
    assert shared == 8 and set(others) == {0}, "the first row's is the same run"


def test_pack_jobs_orders_chains_on_slurm(chains):
    chains.recipe(CHAINS.replace("seeds=(0, 1)", "seeds=(0, 1), runs_per_job=8"))
    packed = job_packing.pack_jobs(chains.plan(), "slurm")
    assert [({planned.run.task for planned in job.runs}, job.after) for job in packed] == [
        ({"chain:encode"}, ()),
        ({"chain:train"}, (0,)),
        ({"chain:sample"}, (1,)),
        ({"chain:score"}, (0, 2)),
    ]


def test_failed_need_blocks_its_dependents_only(chains):
    chains.write("trouble/train large DyT 0", "")
    chains.compute("submit", "table1", "--cluster", "debug", code=1)
    failed = [i for i in chains.plan().runs if i.status.state == "failed"]
    trained, samples, score = failed
    assert trained.status.reason == "no room for it"
    first = f"chain:train {trained.run.signature} (trained), which is failed: no room for it"
    assert samples.status.reason == f"blocked by {first}"
    assert score.status.reason == f"blocked by {first}", "the root of the chain is named"
    assert samples.status.failure.root_run == score.status.failure.root_run == trained.run.signature
    assert score.title == "large · DyT · seed 0"
    assert f"blocked by {first}" in chains.cli("status", "table1", code=1)
    (chains.root / "trouble/train large DyT 0").unlink()
    told = chains.compute("retry", "table1", "--cluster", "debug")
    assert f"3 of {RUNS} runs submitted" in told
    assert computed(chains).count("encode") == 1


def test_failed_shared_need_blocks_every_run(chains):
    chains.write("trouble/encode", "")
    chains.compute("submit", "table1", "--cluster", "debug", code=1)
    shared, *others = chains.plan().runs
    blocked = f"chain:encode {shared.run.signature} (latents), which is failed: no room for it"
    assert shared.status.reason == "no room for it" and len(others) == RUNS - 1
    for one in others:
        assert one.status.failure.kind is FailureKind.BLOCKED
        assert one.status.failure.root_run == shared.run.signature
        assert one.status.reason.startswith("blocked by ") and one.status.reason.endswith(blocked)
