"""Preflight checks: one-line refusals before anything is written or submitted."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from dyt_vision import sources as vision_sources
from matched import DataSource, data

IMAGENET = (
    "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,),"
    " small=Run(task='tiny:train', config=Config(data=('imagenet',)))),))"
)


def refused(project, *arguments):
    """Return the error line of a command that leaves no trace."""
    line = project.mistake(*arguments)
    assert not (project.root / "runs").exists(), "nothing was written"
    return line


COMMANDS = pytest.mark.parametrize(
    "command",
    [
        ["submit", "table1"],
        ["submit", "table1", "--cluster", "debug"],
        ["retry", "table1"],
        ["run", "table1", "--row", "small", "--arm", "DyT"],
    ],
    ids=" ".join,
)


@COMMANDS
def test_submit_names_data_without_a_path(project, command):
    project.recipe(IMAGENET)
    line = refused(project, *command)
    assert line.startswith("no path for ImageNet-1K: set `imagenet` under [data]")
    assert f"{project.root}/site.toml" in line and "site.example.toml" in line


@COMMANDS
def test_submit_names_data_that_is_missing(project, command):
    project.recipe(IMAGENET)
    project.site('[data]\nimagenet = "nowhere"\n')
    line = refused(project, *command)
    assert line.startswith(f"[data] imagenet in {project.root}/site.toml: ")
    assert f"{project.root}/nowhere has no folder train/" in line
    assert "expected an ImageFolder: train/<class>/<image> and val/<class>/<image>" in line


def test_imagenet_with_too_few_classes_is_refused(project):
    project.recipe(IMAGENET)
    project.site('[data]\nimagenet = "in1k"\n')
    for split in ("train", "val"):
        project.write(f"in1k/{split}/n01440764/1.JPEG", "")
    line = refused(project, "submit", "table1")
    assert "train has 1 class folders, not 1000" in line


def test_table1_at_paper_scale_plans_without_data(project):
    """Planning needs no data; submitting does."""
    recipe = Path(__file__).parents[2] / "recipes" / "cvpr2025" / "table01.py"
    project.write("recipes/first/table01.py", recipe.read_text(encoding="utf-8"))
    rows = "".join(
        f'[first.table1.rows.{row}]\nlabel = "x"\n'
        for row in ("vit_b", "vit_l", "convnext_b", "convnext_l")
    )
    project.write(
        "recipes/paper.toml",
        f'[first]\nvenue = "V"\nprefix = ""\n[first.table1]\ncaption = "C"\nmetrics = []\n{rows}',
    )
    arguments = ["table1", "--scale", "paper", "--cluster", "slurm"]
    plan = project.cli("plan", *arguments)
    assert "data ImageNet-1K: 8 of 8 runs to do, in 8 jobs (slurm)" in plan
    for option in ("nodes=8", "ntasks-per-node=8", "gpus-per-node=8", "time=1440", "mem=384GB"):
        assert f"  #SBATCH --{option}\n" in plan
    assert "set `imagenet` under [data]" in refused(project, "submit", *arguments)


def test_unregistered_data_source_is_refused(project):
    project.recipe(IMAGENET.replace("imagenet", "imagnet"))
    for command in ("plan", "submit"):
        line = refused(project, command, "table1")
        assert line.startswith("unknown data source 'imagnet'; registered are ")
        assert {"digits", "imagenet"} <= set(line.partition("are ")[2].split(", "))
        assert "make setup" in line


def test_submit_needs_no_data_for_finished_runs(project):
    project.recipe(IMAGENET)
    for name in list(project.states()):
        project.finish(name, top1=1.0)
    assert "0 of 2 runs submitted" in project.cli("submit", "table1")


def test_cluster_slurm_without_sbatch_is_refused(project):
    assert refused(project, "submit", "table1", "--cluster", "slurm") == (
        "there is no Slurm here (no sbatch on PATH): run this on a login node, or use --cluster "
        "local"
    )


def test_cluster_slurm_without_srun_is_refused(project):
    project.program("sbatch", "")
    line = refused(project, "submit", "table1", "--cluster", "slurm")
    assert "there is no Slurm here (no srun on PATH)" in line


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_more_gpus_than_the_machine_has_are_refused(project, cluster):
    project.site("[local]\ngpus = 2\n")
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(gpus=4, small=SMALL),))")
    assert refused(project, "submit", "table1", "--cluster", cluster) == (
        "table1 at smoke scale asks for 4 GPUs per run and this machine has 2 (`gpus` under "
        f"[local] in {project.root}/site.toml is 2); use --cluster slurm"
    )


@pytest.mark.parametrize("visible", ["1", "", "-1,0"])
def test_more_gpus_than_cuda_visible_devices_allows_are_refused(project, monkeypatch, visible):
    project.site("[local]\ngpus = 4\n")
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(gpus=2, small=SMALL),))")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    line = refused(project, "submit", "table1", "--cluster", "local")
    assert f"2 GPUs per run and CUDA_VISIBLE_DEVICES allows {int(visible == '1')} (`gpus`" in line


def test_gpus_that_do_not_fill_nodes_are_refused(project):
    project.program("sbatch", "echo Submitted batch job 1")
    project.program("srun", "")
    project.site("[slurm]\ngpus_per_node = 3\n")
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(gpus=4, small=SMALL),))")
    assert "do not fill nodes of 3" in refused(project, "submit", "table1", "--cluster", "slurm")
    assert "do not fill nodes of 3" in refused(project, "plan", "table1", "--cluster", "slurm")


HEAVY = """
from dataclasses import dataclass
from matched import MemoryEstimate

@dataclass(frozen=True, kw_only=True)
class Heavy(Config):
    def memory(self, resources):
        own = 40 * 2**30 // resources.world_size
        return MemoryEstimate(
            weights=own, gradients=own, optimizer=2 * own, gathered=0, activations=2**20
        )

SCALE = scale(seeds=(0,), gpus=4, small=Run(task="tiny:train", config=Heavy()), large=LARGE)
SCALE = replace(SCALE, resources=replace(SCALE.resources, shard=True, shard_degree=2))
TABLE = Table(arms=ARMS, scales=(SCALE,))
"""


class TestMemory:
    def test_plan_shows_the_memory_of_a_process(self, project):
        project.recipe(HEAVY)
        (line,) = (line for line in project.cli("plan", "table1").splitlines() if "1 more" in line)
        shown = "small · LN · seed 0 and 1 more 4 = 2 × 2"
        sizes = "10.0 GB 10.0 GB 20.0 GB 0.0 MB 1.0 MB 40.0 GB"
        assert " ".join(line.split()) == f"{shown} {sizes}"

    def test_plan_names_runs_that_do_not_fit(self, project):
        project.recipe(HEAVY)
        for site, fits in (("", True), ("gpu_memory_gb = 41", True), ("gpu_memory_gb = 40", False)):
            project.site(f"[local]\ngpus = 4\n{site}\n")
            assert ("Does not fit: small" in project.cli("plan", "table1")) == (not fits)

    def test_submit_refuses_runs_that_do_not_fit(self, project):
        project.recipe(HEAVY)
        project.site("[local]\ngpus = 4\ngpu_memory_gb = 40\n")
        line = refused(project, "submit", "table1")
        assert line.startswith("small · LN · seed 0 needs about 40.0 GB per GPU, and `gpu_memory")
        assert "under [local]" in line and "is 40 (and 1 more); shard the run over" in line

    def test_one_run_that_does_not_fit_is_not_counted(self, project):
        project.recipe(HEAVY.replace("arms=ARMS", "arms=ARMS[:1]"))
        project.site("[local]\ngpus = 4\ngpu_memory_gb = 40\n")
        assert refused(project, "submit", "table1") == (
            "small · LN · seed 0 needs about 40.0 GB per GPU, and `gpu_memory_gb` under [local] in "
            f"{project.root}/site.toml is 40; shard the run over more processes if it is a "
            "training, reduce its micro_batch or batch, use GPUs with more memory, or correct that "
            "entry"
        )

    def test_memory_may_depend_on_the_configs_of_needs(self, project):
        scoring = HEAVY.replace(
            "memory(self, resources)", "memory_with_needs(self, resources, needs)"
        )
        scoring = scoring.replace("40 * 2**30", "needs['start'].epochs * 2**30")
        start = "needs={'start': Run(task='tiny:train', config=Config(model='start', epochs=50))}"
        project.recipe(scoring.replace("config=Heavy()", f"config=Heavy(), {start}"))
        project.site("[local]\ngpus = 4\ngpu_memory_gb = 40\n")
        line = refused(project, "submit", "table1")
        assert line.startswith("small · LN · seed 0 needs about 50.0 GB per GPU")

    def test_slurm_has_its_own_gpu_memory(self, project):
        project.recipe(HEAVY)
        project.site("[local]\ngpu_memory_gb = 80\n[slurm]\ngpu_memory_gb = 24\n")
        assert "Does not fit" not in project.cli("plan", "table1")
        assert "under [slurm]" in project.cli("plan", "table1", "--cluster", "slurm")

    def test_finished_runs_need_no_memory(self, project):
        project.recipe(HEAVY)
        project.site("[local]\ngpus = 4\ngpu_memory_gb = 40\n")
        for name in list(project.states()):
            project.finish(name, top1=1.0)
        assert "memory" not in project.cli("plan", "table1")
        assert "0 of 4 runs submitted" in project.cli("submit", "table1")


def test_runs_folder_that_is_a_file_is_refused(project):
    project.write("occupied", "")
    project.site('[runs]\nfolder = "occupied"\n')
    line = project.mistake("submit", "table1")
    assert line.startswith(f"{project.root}/occupied")


def imagenet(project, images=732):
    """A folder in ImageNet-1K's layout: empty files, 732 in most training classes."""
    project.recipe(IMAGENET)
    project.site('[data]\nimagenet = "in1k"\n')
    for split, count in (("train", images), ("val", 50)):
        for number in range(4):
            folder = project.root / "in1k" / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.JPEG").touch()


@pytest.fixture
def four_classes(monkeypatch):
    """ImageNet-1K with four classes."""
    imagenet_check = vision_sources.check_image_folder
    monkeypatch.setattr(
        vision_sources, "check_image_folder", lambda path, classes: imagenet_check(path, 4)
    )
    for name, size in dict(vision_sources.IMAGENET_1K).items():
        four = replace(size, images=4 * size.smallest_class)
        monkeypatch.setitem(vision_sources.IMAGENET_1K, name, four)


@COMMANDS
def test_survey_of_images_refuses_before_submission(project, four_classes, command):
    imagenet(project, images=1)
    line = refused(project, *command)
    assert line.startswith(f"[data] imagenet in {project.root}/site.toml: ")
    assert "4 of the 4 classes in" in line and "such as n00000000 with 1; expected 732 to" in line


def test_survey_of_images_warns_and_submits(project, four_classes, caplog, monkeypatch):
    imagenet(project)
    (project.root / "in1k" / "train" / "n00000002" / "7.JPEG").unlink()
    monkeypatch.setattr(logging.getLogger("matched"), "propagate", True)
    told = project.cli("submit", "table1", "--cluster", "debug", code=0)
    assert "2 of 2 runs submitted" in told
    warnings = [r.getMessage() for r in caplog.records if "results may differ" in r.getMessage()]
    assert warnings == [
        f"{project.root}/in1k/train has 2,927 images, and ImageNet-1K has 2,928; results may "
        "differ from those on the complete set"
    ]


# --- data sources


def check_folder(path):
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder")


@pytest.fixture
def sources(monkeypatch):
    known = {
        "embedded": DataSource(title="Embedded"),
        "on_disk": DataSource(title="X", check=check_folder),
    }
    monkeypatch.setattr(data, "load_source", known.__getitem__)


def test_resolve_paths_gives_embedded_data_no_path(sources, tmp_path):
    assert data.resolve_paths(("embedded",), {}, tmp_path / "site.toml") == {}


def test_resolve_paths_surveys_only_when_asked(monkeypatch, tmp_path):
    surveyed = []
    source = DataSource(title="X", check=check_folder, survey=surveyed.append)
    monkeypatch.setattr(data, "load_source", {"on_disk": source}.__getitem__)
    data.resolve_paths(("on_disk",), {"on_disk": tmp_path}, tmp_path / "site.toml")
    assert surveyed == []
    data.resolve_paths(("on_disk",), {"on_disk": tmp_path}, tmp_path / "site.toml", survey=True)
    assert surveyed == [tmp_path]
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        nowhere = {"on_disk": tmp_path / "nowhere"}
        data.resolve_paths(("on_disk",), nowhere, tmp_path / "site.toml", survey=True)
    assert len(surveyed) == 1


def test_resolve_paths_refuses_data_that_nothing_here_can_use(monkeypatch, tmp_path):
    source = data.DataSource(title="speech", refusal="speech needs another Python")
    monkeypatch.setattr(data, "load_source", lambda name: source)
    with pytest.raises(ValueError, match=r"^speech needs another Python$"):
        data.resolve_paths(("speech",), {}, tmp_path / "site.toml")


def test_resolve_paths_returns_the_paths_asked_for(sources, tmp_path):
    paths = {"on_disk": tmp_path, "other": tmp_path / "unused"}
    assert data.resolve_paths(("embedded", "on_disk"), paths, tmp_path / "site.toml") == {
        "on_disk": tmp_path
    }


@pytest.mark.parametrize(
    ("value", "names"), [("a", ("a",)), (("a", "b"), ("a", "b")), ((), ()), (None, ())], ids=str
)
def test_source_names_of_configs(value, names):
    class Config:
        data = value

    class Nothing:
        pass

    assert data.source_names(Nothing() if value is None else Config()) == names
