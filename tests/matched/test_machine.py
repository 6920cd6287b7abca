"""machine: cores and memory by affinity and cgroup limits; how many runs are started at a time."""

import os
from pathlib import Path

import pytest

from matched import job_packing, machine
from matched.site import Local

GB = 1 << 30


@pytest.fixture
def cgroup(tmp_path_factory, monkeypatch):
    """Return a function that puts this process into cgroups with these files, on 8 cores."""
    root = tmp_path_factory.mktemp("cgroups")
    monkeypatch.setattr(machine, "PROC", root)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def make(version, files, path="/pod/box", visible=True):
        """Write ``files`` ("folder/name" → text); the container sees the hierarchy if visible."""
        controllers = {1: ["cpu", "memory"], 2: [""]}[version]
        lines = [f"{n}:{name}:{path}\n" for n, name in enumerate(controllers)]
        (root / "cgroup").write_text("".join(lines))
        kind = {1: "cgroup", 2: "cgroup2"}[version]
        mounts = {name: root / f"mount{name}" for name in controllers}
        (root / "mountinfo").write_text(
            "30 23 0:27 / /scratch rw - tmpfs  rw\n"  # a mount whose source is empty
            + "".join(
                f"31 23 0:28 {'/' if visible else '/other'} {mount} rw - {kind} {kind} rw,{name}\n"
                for name, mount in mounts.items()
            )
        )
        for name, text in files.items():
            folder = mounts[name.rpartition("/")[2].split(".")[0] if version == 1 else ""]
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

    return make


@pytest.mark.parametrize(
    ("version", "files", "cores"),
    [
        (2, {"pod/box/cpu.max": "100000 100000"}, 1),
        (2, {"pod/box/cpu.max": "350000 100000"}, 3),
        (2, {"pod/box/cpu.max": "50000 100000"}, 1),
        (2, {"pod/box/cpu.max": "max 100000"}, 8),
        (2, {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "max 100000"}, 2),
        (2, {"pod/box/cpu.max": "9900000 100000"}, 8),
        (2, {}, 8),
        (1, {"pod/box/cpu.cfs_quota_us": "100000", "pod/box/cpu.cfs_period_us": "100000"}, 1),
        (1, {"pod/box/cpu.cfs_quota_us": "150000", "pod/box/cpu.cfs_period_us": "50000"}, 3),
        (1, {"pod/box/cpu.cfs_quota_us": "-1", "pod/box/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_cpu_quota_of_the_cgroup_limits_the_workers(cgroup, version, files, cores):
    cgroup(version, files)
    assert machine.usable_cores() == cores
    assert Local().worker_count() == cores
    assert Local(threads=2).worker_count() == max(1, cores // 2)
    assert Local(workers=6).worker_count() == 6


@pytest.mark.parametrize("version", [1, 2])
def test_cgroup_may_have_a_name_with_a_colon(cgroup, version):
    """As those of containerd have."""
    file = {1: "memory.limit_in_bytes", 2: "memory.max"}[version]
    cgroup(version, {f"pod/cri:1/{file}": str(3 * GB)}, path="/pod/cri:1")
    assert machine.memory_limit() == 3 * GB


def test_only_mounts_of_cgroups_have_limits(cgroup):
    cgroup(2, {"pod/box/memory.max": str(3 * GB)})
    decoy = machine.PROC / "decoy"
    decoy.mkdir()
    (decoy / "memory.max").write_text("1000")
    mounts = machine.PROC / "mountinfo"
    line = f"29 23 0:26 / {decoy} rw - tmpfs tmpfs rw\n"
    mounts.write_text(line + mounts.read_text())
    assert machine.memory_limit() == 3 * GB


def test_mounts_may_have_names_in_another_encoding(cgroup):
    cgroup(2, {"pod/box/memory.max": str(3 * GB)})
    mounts = machine.PROC / "mountinfo"
    line = b"29 23 0:26 / /m\xfcsli rw - tmpfs tmpfs rw\n"
    mounts.write_bytes(line + mounts.read_bytes())
    assert machine.memory_limit() == 3 * GB


def test_container_sees_its_quota_at_the_top_of_the_mount(cgroup):
    cgroup(2, {"cpu.max": "100000 100000", "memory.max": str(5 * GB)}, visible=False)
    assert (machine.usable_cores(), machine.memory_limit()) == (1, 5 * GB)


@pytest.mark.parametrize(
    ("version", "files", "limit"),
    [
        (2, {"pod/box/memory.max": str(6 * GB)}, 6 * GB),
        (2, {"pod/memory.max": str(4 * GB), "pod/box/memory.max": "max"}, 4 * GB),
        (1, {"pod/box/memory.limit_in_bytes": str(6 * GB)}, 6 * GB),
        (1, {"pod/box/memory.limit_in_bytes": "9223372036854771712"}, None),
        (2, {}, None),
    ],
)
def test_memory_limit_of_the_cgroup(cgroup, version, files, limit):
    cgroup(version, files)
    assert machine.memory_limit() == limit


@pytest.mark.parametrize(
    ("gigabytes", "workers", "jobs"), [(400, 0, 4), (100, 0, 2), (10, 0, 1), (10, 3, 3)]
)
def test_memory_limit_of_the_cgroup_limits_local_jobs(project, cgroup, gigabytes, workers, jobs):
    """Each run asks for 48 GB; there are 4 runs for 8 cores."""
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(small=SMALL),))")
    project.site(f"[local]\nworkers = {workers}\n")
    cgroup(2, {"pod/box/memory.max": str(gigabytes * GB)})
    plan = project.plan()
    packed = job_packing.pack_jobs(plan, "local")
    assert len(packed) == jobs
    note = job_packing.memory_note(plan, packed, "local")
    assert bool(note) == (jobs < 3)
    if note:
        assert note.startswith(
            f"{jobs} instead of 4 runs at a time: each asks for 48 GB and this container has "
            f"{gigabytes}.0 GB; `workers` under [local] in "
        )


@pytest.mark.parametrize(
    ("gigabytes", "workers", "jobs"), [(400, 0, 4), (200, 0, 2), (10, 0, 1), (10, 9, 4)]
)
def test_memory_limit_of_the_cgroup_limits_gpu_jobs(
    project, cgroup, monkeypatch, gigabytes, workers, jobs
):
    """Each of the 4 runs has 2 of the 8 GPUs, and asks for 48 GB per GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(gpus=2, small=SMALL),))")
    project.site(f"[local]\nworkers = {workers}\ngpus = 8\n")
    cgroup(2, {"pod/box/memory.max": str(gigabytes * GB)})
    plan = project.plan()
    packed = job_packing.pack_jobs(plan, "local")
    assert len(packed) == jobs
    note = job_packing.memory_note(plan, packed, "local")
    assert bool(note) == (jobs < 4)
    if note:
        assert note.startswith(f"{jobs} instead of 4 runs at a time: each asks for 96 GB and this ")
        assert note.endswith("lifts this limit")


def test_file_that_cannot_be_read_counts_as_empty(tmp_path):
    assert machine._read(tmp_path / "none") == machine._read(tmp_path) == ""


def test_machine_without_proc_has_the_cores_of_its_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.usable_cores() == len(os.sched_getaffinity(0))
    assert machine.memory_limit() is None


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (
            "processor\t: 0\nmodel name\t: Some CPU @ 2: GHz\nmodel name\t: other\n",
            "Some CPU @ 2: GHz",
        ),
        ("processor\t: 0\nmodel\t: 1\n", "aarch64"),
        ("", "aarch64"),
    ],
)
def test_cpu_name_is_that_of_linux_or_the_machine_type(monkeypatch, cpuinfo, name):
    """Results on CPUs of different names are not compared."""
    files = {Path("/proc/cpuinfo"): cpuinfo}
    monkeypatch.setattr(machine, "_read", files.get)
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert machine.cpu_name() == name
