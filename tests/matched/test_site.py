"""site.toml: defaults, every key, and error messages with the line of a mistake."""

from pathlib import Path

import pytest

from matched import site
from matched.data import load_source, registered_sources, resolve_paths
from matched.site import Local, Runs, Slurm

EXAMPLE = Path(__file__).parents[2] / "site.example.toml"


def read(tmp_path, text):
    path = tmp_path / "site.toml"
    path.write_text(text, encoding="utf-8")
    return site.read(path)


def error_message(tmp_path, text):
    with pytest.raises(ValueError) as refused:
        read(tmp_path, text)
    return str(refused.value)


def test_upstream_checkouts_are_data_sources_with_a_prefix(tmp_path):
    settings = read(tmp_path, '[data]\nhg38 = "a"\n[upstream]\nmae = "b"\nhyenadna = "c"\n')
    assert settings.data == {
        "hg38": tmp_path / "a",
        "upstream.mae": tmp_path / "b",
        "upstream.hyenadna": tmp_path / "c",
    }


def test_site_without_a_file_has_the_defaults(tmp_path):
    settings = site.read(tmp_path / "site.toml")
    assert (settings.local, settings.slurm, settings.runs) == (Local(), Slurm(), Runs())
    assert settings.data == {}
    assert settings.runs_folder == tmp_path / "runs"


def test_site_from_an_empty_file_has_the_defaults(tmp_path):
    assert read(tmp_path, "") == site.read(tmp_path / "site.toml")


def test_site_without_paths_imports_no_data_sources(tmp_path, monkeypatch):
    """Every command reads the file, and the packages of the sources take time to import."""
    monkeypatch.setattr(site, "registered_sources", lambda: pytest.fail("not needed"))
    assert read(tmp_path, "[data]\n[local]\nworkers = 3\n").local == Local(workers=3)


def test_site_reads_every_key(tmp_path):
    settings = read(
        tmp_path,
        '[data]\nimagenet = "/data/in1k"\n'
        '[runs]\nfolder = "/scratch/runs"\ncheckpoint_steps = 100\ncheckpoint_minutes = 5\n'
        "async_checkpoints = true\n"
        "[local]\nworkers = 3\nthreads = 2\ngpus = 1\ngpu_memory_gb = 24\n"
        '[slurm]\npartition = "gpu"\naccount = "a1"\nqos = "q"\nconstraint = "c"\n'
        "gpus_per_node = 4\ngpu_memory_gb = 80\nmax_hours = 12\ngrace_seconds = 60\n"
        "parallel = 8\nmax_array = 100\n"
        'memory = "per-cpu"\n'
        'setup = ["module load cuda", "ulimit -n 4096"]\n[slurm.options]\nexclude = "node7"\n',
    )
    assert settings.data == {"imagenet": Path("/data/in1k")}
    assert settings.runs == Runs(
        folder="/scratch/runs", checkpoint_steps=100, checkpoint_minutes=5, async_checkpoints=True
    )
    assert settings.runs_folder == Path("/scratch/runs")
    assert settings.local == Local(workers=3, threads=2, gpus=1, gpu_memory_gb=24)
    assert settings.slurm == Slurm(
        partition="gpu",
        account="a1",
        qos="q",
        constraint="c",
        gpus_per_node=4,
        gpu_memory_gb=80,
        max_hours=12,
        grace_seconds=60,
        parallel=8,
        max_array=100,
        memory="per-cpu",
        setup=("module load cuda", "ulimit -n 4096"),
        options={"exclude": "node7"},
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [("in1k", "{here}/in1k"), ("../in1k", "{here}/../in1k"), ("~/in1k", "{home}/in1k")],
)
def test_site_paths_are_relative_to_the_file_or_home(tmp_path, monkeypatch, given, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir("/")
    settings = read(tmp_path, f'[data]\nimagenet = "{given}"\n[runs]\nfolder = "{given}"\n')
    path = Path(expected.format(here=tmp_path, home=tmp_path / "home"))
    assert settings.data["imagenet"] == path
    assert settings.runs_folder == path


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            '# mine\n[slurm]\npartitoin = "gpu"\n',
            3,
            ["unknown key 'partitoin' in [slurm]", "did you mean partition?", "account, qos"],
        ),
        (
            '[local]\nworkers = 1\n\n[data]\nimagnet = "/data"\n',
            5,
            ["unknown key 'imagnet' in [data]", "did you mean imagenet?", "imagenet, "],
        ),
        (
            '[slurm]\npartition = "gpu"\nmemory = "per-core"\n',
            3,
            ["memory is 'per-core'", "expected one of per-node, per-cpu, per-gpu, none"],
        ),
        (
            '[data]\ndigits = "/data"\n',
            2,
            ["unknown key 'digits' in [data]", "imagenet, "],
        ),
        (
            "[local]\nworkers = 1\n[slrum]\nmax_hours = 3\n",
            3,
            ["unknown section [slrum]", "did you mean slurm?", "upstream, runs, local, slurm"],
        ),
        ("workers = 1\n", 1, ["unknown section [workers]", "data, upstream, runs, local, slurm"]),
        ("[local]\nzzz = 1\n", 2, ["unknown key 'zzz'", "workers, threads, gpus"]),
        (
            '[upstream]\nmae = "/mae"\ndnio = "/dino"\n',
            3,
            ["unknown key 'dnio' in [upstream] (did you mean dino?); allowed: ", "nanogpt"],
        ),
        (
            '[upstream]\nimagenet = "/data"\n',
            2,
            ["unknown key 'imagenet' in [upstream]; allowed: "],
        ),
        (
            "[local]\ngpus = 1\n[slurm]\ngpus = 8\n",
            4,
            ["unknown key 'gpus' in [slurm]", "gpus_per_node"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_key_is_refused_with_line_and_suggestion(tmp_path, text, line, words):
    message = error_message(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'site.toml'}, line {line}: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('[local]\nworkers = "2"\n', 2, "[local] workers is '2'; expected a whole number"),
        ("[local]\nworkers = true\n", 2, "[local] workers is True; expected a whole number"),
        ("[slurm]\nmax_hours = 2.5\n", 2, "max_hours is 2.5; expected a whole number"),
        ("[slurm]\npartition = 3\n", 2, "[slurm] partition is 3; expected a string"),
        ("[data]\nimagenet = 3\n", 2, "[data] imagenet is 3; expected a string"),
        ('[slurm]\nsetup = "module"\n', 2, "setup is 'module'; expected a list of strings"),
        ('[slurm]\nsetup = [\n"a",\n1]\n', 2, "setup is 1; expected a list of strings"),
        ('[slurm]\noptions = "x"\n', 2, "options is 'x'; expected a table of strings"),
        ("[slurm]\n[slurm.options]\nmem = 3\n", 2, "options is 3; expected a table of strings"),
        ("[runs]\ncheckpoint_steps = 0\n", 2, "checkpoint_steps is 0; expected 1 or more"),
        ("[local]\n\nworkers = -1\n", 3, "workers is -1; expected 0 or more"),
        ("[local]\nthreads = 0\n", 2, "threads is 0; expected 1 or more"),
        ("[runs]\nasync_checkpoints = 1\n", 2, "async_checkpoints is 1; expected true or false"),
        ("[upstream]\nmae = 3\n", 2, "[upstream] mae is 3; expected a string"),
        ('[local]\n"workers" = -1\n', 2, "[local] workers is -1; expected 0 or more"),
        ("[local]\ngpus = -1\n", 2, "[local] gpus is -1; expected 0 or more"),
        ("[slurm]\ngpu_memory_gb = -1\n", 2, "[slurm] gpu_memory_gb is -1; expected 0 or more"),
        ("[slurm]\nparallel = 0\n", 2, "[slurm] parallel is 0; expected 1 or more"),
        ("data = 3\n", 1, "data must be a section, [data]"),
        ("slurm = []\n", 1, "slurm must be a section, [slurm]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_of_the_wrong_type_is_refused_with_line(tmp_path, text, line, expected):
    message = error_message(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'site.toml'}, line {line}: ")
    assert expected in message


def test_site_upstream_checkouts_are_data_sources(tmp_path):
    settings = read(tmp_path, '[upstream]\nmae = "mae"\n[data]\nimagenet = "/in1k"\n')
    assert settings.data == {"imagenet": Path("/in1k"), "upstream.mae": tmp_path / "mae"}
    message = error_message(tmp_path, '[upstream]\nmea = "x"\n')
    assert "line 2: unknown key 'mea' in [upstream] (did you mean mae?)" in message
    assert "unknown key 'upstream.mae' in [data]" in error_message(
        tmp_path, '[data]\n"upstream.mae" = "x"\n'
    )
    with pytest.raises(ValueError, match=r"no path for .*facebookresearch/mae.*`mae` under \[up"):
        resolve_paths(("upstream.mae",), {}, tmp_path / "site.toml")


def test_worker_count_zero_means_one_per_core(tmp_path):
    assert read(tmp_path, "[local]\nworkers = 0\n").local.worker_count() >= 1
    assert read(tmp_path, "[local]\nworkers = 5\n").local.worker_count() == 5
    assert read(tmp_path, "[local]\nthreads = 100000\n").local.worker_count() == 1


def test_a_key_without_a_line_is_refused_with_the_file(tmp_path):
    message = error_message(tmp_path, 'slurm = { partitoin = "gpu" }\n')
    assert message.startswith(f"{tmp_path / 'site.toml'}: unknown key 'partitoin' in [slurm] (did ")


def test_invalid_toml_is_refused_with_line(tmp_path):
    message = error_message(tmp_path, "[local]\nworkers = \n")
    assert message.startswith(str(tmp_path / "site.toml")) and "line 2" in message


@pytest.mark.parametrize("command", ["plan", "submit", "status", "table", "logs", "cancel"])
def test_every_command_refuses_an_unknown_site_key(project, command):
    project.site('[slurm]\npartitoin = "gpu"\n')
    argument = "0123456789ab" if command == "logs" else "table1"
    assert "did you mean partition?" in project.mistake(command, argument)


def test_matched_site_names_another_file(project, monkeypatch):
    project.write("else/where.toml", '[runs]\nfolder = "mine"\n')
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("MATCHED_SITE", "else/where.toml")
    assert str(project.root / "else/mine") in project.cli("status", "table1")


def test_matched_site_must_name_an_existing_file(project, monkeypatch):
    monkeypatch.setenv("MATCHED_SITE", "/no/site.toml")
    assert "MATCHED_SITE is /no/site.toml" in project.mistake("plan", "table1")


# --- site.example.toml


def test_the_example_has_all_data_sources():
    needed = {name for name in registered_sources() if not load_source(name).embedded}
    assert set(site.read(EXAMPLE).data) == needed, "the sources that a user provides"


def test_the_example_has_every_key_with_its_default():
    """Values are the defaults, except for the partition."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for kind in (Runs, Local, Slurm):
        for key in kind.__dataclass_fields__:
            assert key in text
    settings = site.read(EXAMPLE)
    assert (settings.runs, settings.local) == (Runs(), Local())
    assert settings.slurm == Slurm(partition=settings.slurm.partition)


def test_site_accepts_a_byte_order_mark(tmp_path):
    path = tmp_path / "site.toml"
    path.write_bytes("[local]\nworkers = 3  # für mich\n".encode("utf-8-sig"))
    assert site.read(path).local.workers == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_site_in_utf_16_is_refused_by_name(tmp_path, encoding):
    path = tmp_path / "site.toml"
    path.write_bytes("[local]\nworkers = 3\n".encode(encoding))
    with pytest.raises(ValueError) as refused:
        site.read(path)
    assert str(refused.value) == (
        f"{path} is in UTF-16 or not a text file; expected UTF-8: save the file as UTF-8, for "
        "example with `iconv -f UTF-16 -t UTF-8`"
    )


def test_site_in_latin_1_is_refused_with_its_line(tmp_path):
    path = tmp_path / "site.toml"
    path.write_bytes("[local]\n# für mich\nworkers = 3\n".encode("latin-1"))
    with pytest.raises(ValueError) as refused:
        site.read(path)
    assert str(refused.value) == (
        f"{path}, line 2: byte 0xfc is not UTF-8; expected UTF-8: save the file as UTF-8, for "
        "example with `iconv -f LATIN1 -t UTF-8`"
    )


@pytest.mark.parametrize("path", ["~/runs", "~nobody-of-this-name/runs"])
def test_site_refuses_a_home_folder_that_is_unknown(tmp_path, monkeypatch, path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", _no_name)
    settings = read(tmp_path, f'[runs]\nfolder = "{path}"\n')
    with pytest.raises(ValueError, match=rf"site\.toml: the home folder in '{path}' is not known"):
        _ = settings.runs_folder


@pytest.mark.parametrize(("section", "key"), [("runs", "folder"), ("data", "imagenet")])
def test_site_refuses_an_empty_path(tmp_path, section, key):
    with pytest.raises(ValueError) as refused:
        read(tmp_path, f'[{section}]\n{key} = ""\n')
    assert str(refused.value).endswith(
        f"site.toml, line 2: [{section}] {key} is empty; write a path, or leave the key out"
    )


def _no_name(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")


@pytest.mark.parametrize(
    ("visible", "usable"),
    [(None, ("0", "1")), ("5,7,GPU-8a2f", ("5", "7")), ("3", ("3",)), ("", ())],
)
def test_usable_gpus_are_the_first_of_those_allowed(monkeypatch, visible, usable):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Local(gpus=2).usable_gpus() == usable
