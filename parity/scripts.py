"""Official training scripts, unmodified, for a few steps on tiny data under `python -m dyt run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from claims import Claim, equal
from PIL import Image

HERE = Path(__file__).parent
SMALL_VIT = ("--device", "cpu", "--batch_size", "4", "--epochs", "1", "--warmup_epochs", "0")
QUIET = ("--num_workers", "0")
CPU = "dyt_upstream.shims.cpu"


def images(folder: Path) -> Path:
    """Write eight images of noise in each of two splits and return the folder."""
    noise = np.random.default_rng(0)
    for number in range(16):
        split, label = ("train", "val")[number % 2], "ab"[number // 8]
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / split / label / f"{number}.jpg")
    return folder


def run(
    checkout: Path,
    command: Sequence[object],
    report: Path,
    imports: Sequence[str] = (),
    skip: str = "",
) -> dict[str, int]:
    """Run a script with DyT; return the number of replaced layers by network."""
    words = [sys.executable, "-m", "dyt", "run", "--norm", "dyt", "--report", str(report)]
    words += [word for name in imports for word in ("--import", name)]
    words += ["--skip", skip] if skip else []
    # Configurations of HyenaDNA ask nvidia-smi for the size of the GPU.
    path = os.pathsep.join((os.environ["PATH"], str(HERE / "stand_ins")))
    paths = [str(HERE / "stand_ins"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        [*words, "--", *map(str, command)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    counts: dict[str, int] = {}
    for network in json.loads(report.read_text())["networks"]:
        if network["replacements"]:
            name = network["class"]
            counts[name] = counts.get(name, 0) + len(network["replacements"])
    return counts


def ran(script: str, expected: dict[str, int], counts: dict[str, int]) -> Claim:
    """Return the claim that a script ran with so many norms replaced."""
    return equal(f"{script} runs unmodified; norms replaced", counts, expected)


def mae(checkout: Path) -> Iterator[Claim]:
    shims = ["dyt_upstream.shims.mae"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = ("--data_path", images(folder / "images"), "--no_pin_mem", *QUIET, *SMALL_VIT)
        output = ("--output_dir", folder / "first", "--log_dir", folder / "first")
        command = ("main_pretrain.py", "--model", "mae_vit_base_patch16", *data, *output)
        counts = run(checkout, command, folder / "norms.json", shims)
        yield ran("MAE's main_pretrain.py (ViT-B)", {"MaskedAutoencoderViT": 42}, counts)
        start = ("--finetune", folder / "first" / "checkpoint-0.pth", "--nb_classes", "8")
        output = ("--output_dir", folder / "second", "--log_dir", folder / "second")
        command = ("main_finetune.py", "--model", "vit_base_patch16", *data, *output, *start)
        counts = run(checkout, command, folder / "norms.json", shims)
        yield ran("MAE's main_finetune.py (ViT-B)", {"VisionTransformer": 25}, counts)


def dino(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = (
            *("main_dino.py", "--arch", "vit_base", "--patch_size", "16", "--out_dim", "64"),
            *("--batch_size_per_gpu", "4", "--epochs", "1", "--warmup_epochs", "0"),
            *("--local_crops_number", "1", "--use_fp16", "false", *QUIET),
            *("--data_path", images(folder / "images") / "train", "--output_dir", folder / "out"),
        )
        shims = ["dyt_upstream.shims.dino", CPU]
        counts = run(checkout, command, folder / "norms.json", shims)
        # Student and teacher.
        yield ran("DINO's main_dino.py (ViT-B/16)", {"VisionTransformer": 2 * 25}, counts)


def dit(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = (
            *("train.py", "--model", "DiT-S/8", "--epochs", "1", "--global-batch-size", "4"),
            *("--num-workers", "0", "--log-every", "1", "--num-classes", "2"),
            *("--data-path", images(folder / "images") / "train", "--results-dir", folder / "out"),
        )
        counts = run(checkout, command, folder / "norms.json", ["tiny_vae", CPU])
        yield ran("DiT's train.py (S/8; a small random autoencoder)", {"DiT": 25}, counts)


def nanogpt(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split in ("train", "val"):
            tokens = np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint16)
            tokens.tofile(folder / f"{split}.bin")
        options = {
            "dataset": folder,
            "out_dir": folder / "out",
            "device": "cpu",
            "dtype": "float32",
            "compile": False,
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 32,
            "block_size": 32,
            "batch_size": 4,
            "gradient_accumulation_steps": 1,
            "max_iters": 3,
            "eval_interval": 2,
            "eval_iters": 1,
        }
        command = ("train.py", *(f"--{key}={value}" for key, value in options.items()))
        counts = run(checkout, command, folder / "norms.json")
        yield ran("nanoGPT's train.py (2 layers)", {"GPT": 5}, counts)


def convnext(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = images(folder / "images")
        command = (
            *("main.py", "--model", "convnext_tiny", *SMALL_VIT, *QUIET, "--pin_mem", "false"),
            *("--data_set", "image_folder", "--nb_classes", "2", "--input_size", "32"),
            *("--data_path", data / "train", "--eval_data_path", data / "val"),
            *("--model_ema", "true", "--output_dir", folder / "out", "--mixup", "0.8"),
        )
        shims = ["dyt_upstream.shims.convnext"]
        counts = run(checkout, command, folder / "norms.json", shims)
        # 18 blocks, the stem, three downsampling layers and the last norm.
        yield ran("ConvNeXt's main.py (ConvNeXt-T)", {"ConvNeXt": 18 + 1 + 3 + 1}, counts)


def fmsfsdp(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {
            "model_variant": "llama3_194m_4k",
            "use_dummy_dataset": True,
            "vocab_size": 1000,
            "seq_length": 16,
            "batch_size": 1,
            "num_steps": 2,
            "training_stage": "annealing",  # without a warmup, which has a 20th of the steps
            "report_interval": 1,
            "checkpoint_interval": 100,
            "sharding_strategy": "ddp",
            "mixed_precision": False,
            "use_torch_compile": False,
            "ckpt_load_path": folder / "checkpoints",
            "ckpt_save_path": folder / "checkpoints",
        }
        words = (f"--{key}={value}" for key, value in options.items())
        command = ("main_training_llama.py", *words)
        counts = run(checkout, command, folder / "norms.json", [CPU, "small_llama"])
        yield ran("fms-fsdp's main_training_llama.py (3 small layers)", {"LLaMA": 7}, counts)


def fairseq(checkout: Path) -> Iterator[Claim]:
    """fairseq-hydra-train of the installed fairseq 0.12.2, on Python 3.11 and later."""
    import soundfile

    from dyt_wav2vec import fairseq_compat

    recipes = Path(fairseq_compat.load().__file__).parent / "examples/wav2vec/config/pretraining"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [str(folder)]
        for number in range(6):
            noise = np.random.default_rng(number).normal(0, 1000, 16_000).astype(np.int16)
            soundfile.write(folder / f"{number}.wav", noise, 16_000, subtype="PCM_16")
            lines.append(f"{number}.wav\t16000")
        for split in ("train", "valid"):
            (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        command = (
            *("-m", "fairseq_cli.hydra_train", "--config-dir", recipes),
            *("--config-name", "wav2vec2_base_librispeech", f"hydra.run.dir={folder / 'out'}"),
            *(f"task.data={folder}", "task.max_sample_size=12000", "task.min_sample_size=8000"),
            *("dataset.max_tokens=24000", "dataset.num_workers=0", "common.cpu=true"),
            *("common.fp16=false", "checkpoint.no_save=true", "optimization.update_freq=[1]"),
            *("distributed_training.distributed_world_size=1", "optimization.max_update=2"),
            *("dataset.data_buffer_size=0", "dataset.disable_validation=true"),
            "+model.conv_feature_layers='[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2'",
            *("+model.encoder_layers=2", "model.encoder_embed_dim=32", "model.final_dim=8"),
            *("+model.encoder_ffn_embed_dim=48", "+model.encoder_attention_heads=4"),
            *("+model.latent_vars=6", "+model.conv_pos=8", "+model.conv_pos_groups=4"),
            "+model.num_negatives=5",
        )
        shims = ["dyt_wav2vec.hydra_train"]
        report = folder / "norms.json"
        counts = run(folder, command, report, shims, skip="*feature_extractor")
        # After the extractor, before the encoder, and two in each layer.
        yield ran("fairseq-hydra-train (Base, 2 layers)", {"Wav2Vec2Model": 1 + 1 + 4}, counts)


def genome(folder: Path) -> tuple[str, ...]:
    """Write a random genome with intervals, and return the options of the DNA trainers for it."""
    letters = np.random.default_rng(0).choice(list("ACGT"), 60_000)
    (folder / "genome.fa").write_text(">chr1\n" + "".join(letters) + "\n")
    splits = ["train"] * 32 + ["valid"] * 4 + ["test"] * 4
    rows = [f"chr1\t{1400 * i}\t{1400 * i + 1000}\t{s}\n" for i, s in enumerate(splits)]
    (folder / "intervals.bed").write_text("".join(rows))
    return (
        *("wandb=null", "trainer.accelerator=cpu", "trainer.precision=32"),
        *("trainer.limit_val_batches=0", f"dataset.bed_file={folder}/intervals.bed"),
        *(f"dataset.fasta_file={folder}/genome.fa", "dataset.max_length=64"),
        *("dataset.batch_size=2", "dataset.num_workers=0", "train.global_batch_size=2"),
        *(f"hydra.run.dir={folder}/out", "hydra.job.chdir=true"),
    )


def hyenadna(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = (
            *("-m", "train", "experiment=hg38/hg38_hyena", "+trainer.max_steps=2"),
            *(*genome(folder), "model.d_model=32", "model.n_layer=2"),
        )
        shims = ["dyt_upstream.shims.hyenadna"]
        counts = run(checkout, command, folder / "norms.json", shims)
        yield ran("HyenaDNA's train.py (2 layers)", {"SequenceLightningModule": 5}, counts)


def caduceus(checkout: Path) -> Iterator[Claim]:
    for variant in ("ph", "ps"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = (
                *("-m", "train", "experiment=hg38/hg38", "model=caduceus", *genome(folder)),
                *("trainer.max_steps=2", "dataset.mlm=true", "dataset.mlm_probability=0.15"),
                *("model.config.d_model=32", "model.config.n_layer=2"),
                *("model.config.fused_add_norm=false", "model.config.bidirectional=true"),
                f"model.config.rcps={str(variant == 'ps').lower()}",
            )
            shims = ["dyt_upstream.shims.caduceus", "mamba_on_cpu"]
            counts = run(checkout, command, folder / "norms.json", shims)
            script = f"Caduceus-{variant.upper()}'s train.py (2 layers; Mamba's reference scan)"
            yield ran(script, {"SequenceLightningModule": 3}, counts)


def transformers(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        script = HERE / "stand_ins" / "trainer_script.py"
        counts = run(Path(name), (script, Path(name) / "out"), Path(name) / "norms.json")
        yield ran("A script of transformers' Trainer (LLaMA)", {"LlamaForCausalLM": 7}, counts)


SCRIPTS = {
    "mae": mae,
    "dino": dino,
    "dit": dit,
    "convnext": convnext,
    "nanogpt": nanogpt,
    "fmsfsdp": fmsfsdp,
    "fairseq": fairseq,
    "hyenadna": hyenadna,
    "caduceus": caduceus,
    "transformers": transformers,
}
