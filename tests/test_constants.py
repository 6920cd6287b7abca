"""Numbers that a source outside of the code fixes, entered a second time.

A typing error in such a number gives other results without an error. Settings of the paper's runs
are compared with docs/SETTINGS*.md instead (recipes/test_settings.py). The modules are parsed, not
imported.
"""

import ast
from datetime import timedelta
from pathlib import Path

import pytest

from .package_constants import TABLES

ROOT = Path(__file__).parents[1]
DYT, MATCHED = "shared/dyt/src/dyt", "shared/matched/src/matched"
VISION, DIT = "packages/vision-mae-dino/src/dyt_vision", "packages/dit/src/dyt_dit"
WAV2VEC, LLAMA = "packages/wav2vec/src/dyt_wav2vec", "packages/llama/src/dyt_llama"
DNA, CADUCEUS = "packages/hyenadna/src/dyt_hyenadna", "packages/caduceus/src/dyt_caduceus"

FROM_PUBLICATIONS = {
    f"{DYT}/norm_config": {"ALPHA0": 0.5},  # Section 4 of the CVPR paper
    f"{DYT}/alpha0_rule": {
        "_SEARCHED": (  # width → α of attention and of the other layers: CVPR, Tables 11 and 12
            (512, 1.0, 1.0),
            (1024, 1.0, 1.0),
            (2048, 1.0, 0.5),
            (4096, 0.8, 0.2),
            (5120, 0.6, 0.15),
            (8192, 0.2, 0.05),
        ),
        "_MAXIMUM": 2.0,
        "_NARROW_EXPONENT": -1 / 3,
    },
    f"{VISION}/dino_crops": {  # Caron et al. 2021, after BYOL
        "COLOR_JITTER": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
        "BLUR_RADII": (0.1, 2.0),
        "SOLARIZE_THRESHOLD": 128,
    },
    f"{VISION}/dino_evaluation": {"VOTE_TEMPERATURE": 0.07},
    f"{VISION}/finetuning": {"HEAD_STD": 2e-5},
    f"{VISION}/mae_model": {"EPSILON": 1e-6},
    f"{DIT}/model": {"EPSILON": 1e-6},
    f"{DIT}/diffusion": {"GUIDED_CHANNELS": 3},
    f"{DIT}/fid": {"IMAGES_PER_SCORE": 5000},
    f"{WAV2VEC}/manifests": {"MIN_SAMPLES": 400, "VALID_FRACTION": 0.01},
    f"{WAV2VEC}/sources": {"SAMPLE_RATE": 16_000},
    f"{DNA}/objectives": {"MASK_SHARE, RANDOM_SHARE": (0.8, 0.1)},
    f"{DNA}/classification": {"VALIDATION_SHARE": 0.1},
    f"{DNA}/config": {"SPLIT_SEEDS": (1, 2, 3, 4, 5)},
    f"{DNA}/initialization": {"STD": 0.02, "RESIDUAL_OUTPUTS": ("out_proj", "fc2")},
    f"{DNA}/hyena_operator": {
        "SHORT_FILTER_LENGTH": 3,
        "DECAY_TARGET": 0.01,
        "LOWEST_FREQUENCY": 1e-4,
    },
    f"{DNA}/intervals": {"STRETCH": 2**20},
    f"{DNA}/arabidopsis": {"INTERVAL": 2**17},
    f"{DNA}/tokenizer": {"VOCABULARY": 12, "PADDED_VOCABULARY": 16},
    f"{DNA}/sources": {
        "HG38_INTERVALS": {"train": 34_021, "valid": 2213, "test": 1937},
        "HG38_BYTES": 3_000_000_000,
    },
    f"{LLAMA}/latency": {"PRINTED_PASSES": 100},
    f"{LLAMA}/lm_eval_tasks": {"FEWSHOT_SEED": 1234},
    f"{LLAMA}/indexed_tokens": {"LARGEST_UINT16": 65_500},
    f"{LLAMA}/weights": {"MAX_FILE_BYTES": 5_000_000_000},
    f"{LLAMA}/chunked_loss": {"IGNORED": -100},
}

PROMISED_TO_USERS = {
    f"{DYT}/__main__": {"REPORT_FILE": "dyt-replaced.json"},
    f"{DYT}/architecture_rules": {"WAV2VEC2_SKIP": ("*feature_extractor",)},
    f"{DYT}/calibrated_conversion": {"POOR_FIT": 0.5},
    f"{DYT}/calibration": {
        "MAXIMUM_BATCHES": 64,
        "MINIMUM_POSITIONS": 8,
        "SAMPLED_VALUES": 2**22,
    },
    f"{DYT}/calibration_fit": {
        "SATURATED": 2.0,
        "HEADROOM": 1 / 8,
        "SEARCH_VALUES": 2**17,
        "PRIOR_POSITIONS": 4,
        "OUTLIER_FACTOR": 4.0,
        "OUTLIER_FLOOR": 0.25,
        "OUTLIER_SHARE": 0.25,
        "WORST_POSITIONS": 3,
    },
    f"{DYT}/norm_analysis": {"LINEAR_PART": 0.5, "GRID": 200},
    f"{DYT}/pretrained": {"CONVERSION_FILE": "dyt.json", "WEIGHTS_FILE": "dyt_weights.pt"},
    f"{VISION}/image_data": {"MAX_UNREADABLE_SHARE": 0.001, "DIGITS_HELD_OUT": 360},
    f"{VISION}/sources": {"MAX_MISSING_SHARE": 0.01},
    f"{WAV2VEC}/sources": {"MAX_UNUSABLE_SHARE": 0.001},
    f"{WAV2VEC}/preparation": {"FILES_TO_VERIFY": 1000},
    f"{WAV2VEC}/audio_files": {"MAX_EMPTY_BYTES": 4096},
    f"{LLAMA}/text_files": {"MAX_BAD_LINES": 1e-4},
    f"{MATCHED}/training/checkpoint": {"KEEP": 2},
    f"{MATCHED}/training/metrics_log": {"SECONDS_BETWEEN_PROGRESS": 0.5},
    f"{MATCHED}/training/order": {"LARGEST_DRAWN": 2**22, "ROUNDS": 8},  # the order of a seed
    f"{MATCHED}/training/fingerprint": {"BATCHES": 4},
    f"{MATCHED}/run": {"SIGNATURE_LENGTH": 12},
    f"{MATCHED}/provenance": {"MAX_NEW_BYTES": 10_000_000},
    f"{MATCHED}/report/intervals": {"LEVEL": 0.95},
    f"{MATCHED}/requeue": {"MAX_RESTARTS": 3},
}

FIXED_BY_OTHER_PROGRAMS = {
    f"{DYT}/backends/cpu": {
        "REMEDY": (
            "Run `python -m dyt build` in the environment that has torch; it needs a C++ compiler"
        ),
    },
    f"{DYT}/backends/triton": {
        "MINIMUM_TRITON": (3, 4),
        "REMEDY": (
            "Use Linux, an NVIDIA GPU, and a CUDA build of torch 2.8 or newer with its own Triton"
        ),
    },
    f"{DYT}/kernel_build": {
        "X86_FLAGS": {  # as of torch's own kernels
            "AVX2": ["-mavx2", "-mfma", "-mf16c"],
            "AVX512": [
                "-mavx2",
                "-mfma",
                "-mf16c",
                "-mavx512f",
                "-mavx512bw",
                "-mavx512vl",
                "-mavx512dq",
            ],
        },
        "FLAGS": ["-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-DNDEBUG"],
    },
    f"{DYT}/backends/triton_plan": {
        "INT64_FROM": 2**30,
        # Reads in flight of a multiprocessor: 128 threads × 16 bytes × 4 steps × 8 programs, 64 kB.
        "THREADS": 128,
        "STEPS": 4,
        "STEPS_BACKWARD": {  # fewer where the method needs more registers
            "approximate": 4,
            "exp2": 4,
            "rational": 4,
            "library": 2,
            "polynomial": 2,
            "erf": 2,
        },
        "PROGRAMS, PROGRAMS_BACKWARD": (8, 4),
    },
    f"{DYT}/backends/triton_choice": {"_FINAL_TILE": (128, 32)},
    f"{MATCHED}/data_files": {"MAX_POINTER_BYTES": 1024},
    f"{MATCHED}/memory": {"GIB": 2**30},
    f"{MATCHED}/machine": {"NO_LIMIT": 2**60},
    f"{MATCHED}/slurm_request": {
        "MIN_MINUTES": 5,
        "EXCLUSIVE": (
            {"mem", "mem_per_cpu", "mem_per_gpu"},
            {"cpus_per_task", "cpus_per_gpu"},
            {"gpus_per_node", "gpus_per_task", "gpus", "gres"},
        ),
        "SRUN_CPUS": (
            '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
        ),
    },
    f"{MATCHED}/provenance": {  # options of git diff, which ``git apply`` needs
        "DIFF": (
            *("-c", "diff.suppressBlankEmpty=false", "-c", "diff.relative=false", "diff"),
            *("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/"),
            *("--submodule=short", "--unified=3", "--inter-hunk-context=0", "-O/dev/null"),
            *("--binary", "HEAD"),
        ),
    },
    f"{LLAMA}/memory": {
        "FP32": 4,
        "RESIDUAL_BYTES": {"bf16-params": 2, "bf16-reduce": 2},
        "PRODUCT_BYTES": {"bf16": 2, "fp16": 2, "bf16-params": 2, "bf16-reduce": 2},
    },
    f"{MATCHED}/signals": {"PR_SET_PDEATHSIG": 1},
    f"{WAV2VEC}/audio_files": {"MAX_FRAMES": 2**62},
}

SHOWN_AND_WAITED_FOR = {  # how much of a list or a curve is shown, and how long is waited
    f"{MATCHED}/matching": {"MAX_SHOWN": 5},
    f"{MATCHED}/peers": {"POLL_SECONDS": 5.0, "CLOSE_TIMEOUT": 30},
    f"{MATCHED}/recipes": {"MAX_CHANGES_IN_NAME": 80},
    f"{MATCHED}/requeue": {"KILL_TIMEOUT": 600},
    f"{MATCHED}/summary_table": {"MAX_ARM_COLUMNS": 2},
    f"{MATCHED}/watch": {"POLL_SECONDS": 0.5, "REST": 25},
    f"{MATCHED}/report/collect": {"SHOWN": 5},
    f"{MATCHED}/report/curves": {"MAX_POINTS": 100, "MAX_SEEDS": 5, "MAX_PANELS": 4},
    f"{MATCHED}/report/figures/__init__": {"SHOWN": 8},
    f"{MATCHED}/report/figures/canvas": {
        "COLORS": (  # Okabe and Ito, and a grey
            *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"),
            "#999999",
        ),
        "DASHES": ("-", "--", ":", "-."),
        "MARKERS": ("o", "^", "s", "D", "v", "P"),
        "SETTINGS": {
            "font.size": 8,
            "axes.titlesize": 8,
            "axes.grid": True,
            "grid.linewidth": 0.4,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "svg.fonttype": "path",
            "svg.hashsalt": "matched",
            "pdf.fonttype": 42,
            "savefig.dpi": 150,
            "figure.constrained_layout.use": True,
        },
    },
    f"{MATCHED}/report/figures/norm_layers": {
        "MAX_POINTS": 3000,
        "PICTURE_LAYERS": 4,
        "HIGHLIGHTED": 6,
        "CURVED": 0.01,
        "REMAINING": 0.5,
    },
    f"{MATCHED}/report/intervals": {"MAX_SEEDS": 1000},
    f"{MATCHED}/report/page": {"FIRST_ROWS": 200, "LISTED": 500},
}


def constant(module, name):
    """The value of a module's constant: a literal, or an expression of literals."""
    for node in ast.parse((ROOT / f"{module}.py").read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if [ast.unparse(target).strip("()") for target in targets if target] == [name]:
            expression = compile(ast.Expression(node.value), module, "eval")
            return eval(expression, {"__builtins__": {}, "timedelta": timedelta})
    raise AssertionError(f"{module}.py has no constant {name}")


@pytest.mark.parametrize(
    "table",
    [FROM_PUBLICATIONS, PROMISED_TO_USERS, FIXED_BY_OTHER_PROGRAMS, SHOWN_AND_WAITED_FOR, *TABLES],
)
def test_constants_have_the_values_of_their_sources(table):
    found = {module: {name: constant(module, name) for name in table[module]} for module in table}
    assert found == table


def test_patience_with_processes_is_ordered():
    """Each limit leaves room for several of the events that it waits for."""
    beat, patience = (constant(f"{MATCHED}/lease", name) for name in ("BEAT", "PATIENCE"))
    silence, slurm = (
        constant(f"{MATCHED}/job_status", name) for name in ("SILENCE", "SLURM_PATIENCE")
    )
    success, failure = (
        constant(f"{MATCHED}/job_runner", f"{name}_TIMEOUT") for name in ("SUCCESS", "FAILURE")
    )
    assert 10 * beat <= patience < silence < slurm
    # Slurm kills a job 30 s after its signal (KillWait); the last checkpoint may take an hour.
    assert failure < 30 and success >= 3600
    assert constant(f"{MATCHED}/training/distributed", "OBJECT_TIMEOUT") >= timedelta(days=1)
