"""Constants of the packages, entered a second time for test_constants.py."""

VISION, DIT = "packages/vision-mae-dino/src/dyt_vision", "packages/dit/src/dyt_dit"
WAV2VEC, LLAMA = "packages/wav2vec/src/dyt_wav2vec", "packages/llama/src/dyt_llama"
DNA, CADUCEUS = "packages/hyenadna/src/dyt_hyenadna", "packages/caduceus/src/dyt_caduceus"
UPSTREAM = "packages/upstream/src/dyt_upstream"

FROM_PUBLICATIONS = {
    f"{VISION}/normfree/fixup": {"LAYERS": 2},
    f"{VISION}/sources": {"WEIGHTS": ("model.safetensors", "pytorch_model.bin")},
    f"{DIT}/diffusion": {"BETA_FIRST, BETA_LAST": (1e-4, 0.02)},
    f"{DIT}/feature_extractors": {"SPATIAL_CHANNELS": 7, "PUBLISHED_SHA256": "6726825d"},
    f"{DIT}/release_weights": {
        "PAIRS": (
            ("x_embedder.proj", "transformer.pos_embed.proj"),
            ("t_embedder.mlp.0", "embedder.timestep_embedder.linear_1"),
            ("t_embedder.mlp.2", "embedder.timestep_embedder.linear_2"),
            ("y_embedder.embedding_table", "embedder.class_embedder.embedding_table"),
            ("final_layer.norm_final", "transformer.norm_out"),
            ("final_layer.adaLN_modulation.1", "transformer.proj_out_1"),
            ("final_layer.linear", "transformer.proj_out_2"),
        ),
    },
    f"{WAV2VEC}/fairseq_compat": {
        "VERSION": "0.12.2",
        "NEWEST_PYTHON": (3, 13),
        "GATHER_BUFFER_BYTES": 16_384,
    },
    f"{WAV2VEC}/synthetic_speech": {  # Peterson and Barney 1952, and a uniform tube of 17.5 cm
        "REFERENCE_TRACT": 17.5,
        "HIGHER_FORMANTS": (3500.0, 4500.0),
        "VOWELS": {
            "i": (270, 2290, 3010),
            "ɪ": (390, 1990, 2550),
            "ɛ": (530, 1840, 2480),
            "æ": (660, 1720, 2410),
            "ɑ": (730, 1090, 2440),
            "ɔ": (570, 840, 2410),
            "ʊ": (440, 1020, 2240),
            "u": (300, 870, 2240),
            "ʌ": (640, 1190, 2390),
            "ɝ": (490, 1350, 1690),
        },
    },
    f"{DNA}/arabidopsis": {
        "BLOCK": 2**20,
        "ANNOTATED": "thaliana_1",
        "ANNOTATION": "AthaTAIR10_chr1.gff.gz",
        "SPECIES": {
            "thaliana": "AthaTAIR10_chr1_GCF_000001735.4_TAIR10.1_genomic.fna.gz",
            "lyrata": "Alyr1_chr1_chr2_GCA_026151145.1_ALyr_1.0_genomic.fna.gz",
            "arenosa": "AareAARE701a_chr1_chr2_GCA_905216605.1_AARE701a_genomic.fna.gz",
        },
    },
    f"{DNA}/genome": {
        "LETTERS": b"ACGTNRYSWKMBDHVU",
        "MITOCHONDRION": {"chrM": "MT", "M": "MT", "chrMT": "MT"},
    },
    f"{DNA}/intervals": {"COMMENTS": ("#", "track", "browser")},
    f"{DNA}/sources": {
        "HG38_FASTA": ("hg38.ml.fa", "hg38.ml.fa.gz"),
        "HG38_BED": ("human-sequences.bed", "sequences_human.bed"),
        "WEIGHTS": ("weights.ckpt", "model.safetensors", "pytorch_model.bin"),
    },
    f"{CADUCEUS}/initialization": {"STEP_MIN, STEP_MAX, STEP_FLOOR": (0.001, 0.1, 1e-4)},
    f"{CADUCEUS}/sources": {"WEIGHTS": ("weights.ckpt", "model.safetensors", "pytorch_model.bin")},
    f"{LLAMA}/indexed_tokens": {"MAGIC": b"MMIDIDX\0\0"},
    f"{LLAMA}/docstrings": {
        "PACKAGES": {
            "diffusers": "0.42.1",
            "scikit-learn": "1.9.1",
            "sympy": "1.14.0",
            "torch": "2.11.0",
            "transformers": "5.23.0",
        },
    },
}
"""Numbers and names of papers, official code, other programs' files and data sets."""

PROMISED_TO_USERS = {
    f"{VISION}/mae": {"PICTURE": "reconstructions.png", "PICTURE_IMAGES": 8},
    f"{VISION}/dino_evaluation": {"PICTURE": "attention.png", "PICTURE_IMAGES": 6},
    f"{VISION}/models": {"CALIBRATION_IMAGES": 64},
    f"{VISION}/norm_layers": {"IMAGES": 32},
    f"{VISION}/sources": {"POINTERS_PER_CLASS": 10, "MAX_NAMES": 3},
    f"{VISION}/weights": {"PRETRAINED_FILE": "pretrained.pth"},
    f"{VISION}/normfree/sigma_reparam": {"START_ITERATIONS": 200},
    f"{DIT}/digits_features": {"WEIGHTS": "classifier.npz", "SIDE": 8, "MAX_EPOCHS": 500},
    f"{DIT}/latent_cache": {"FOLDER": "latents", "MANIFEST": "manifest.json", "VERSION": 1},
    f"{DIT}/latents": {"MAX_NAMED": 3},
    f"{DIT}/norm_layers": {"IMAGES": 32},
    f"{DIT}/reference": {"FILE": "reference.npz", "MAX_NAMED": 3},
    f"{DIT}/sample_grid": {"ROWS, COLUMNS": (10, 8), "MIN_HEIGHT": 64, "WHITE": 255},
    f"{DIT}/sampling": {"SAMPLES": "samples.npz", "SOURCE": "samples.json", "BATCHES": "batches"},
    f"{DIT}/scoring": {
        "SAMPLES": "samples.npz",
        "SAMPLE_GRID": "samples.png",
    },
    f"{DIT}/training": {
        "WEIGHTS": "weights.pt",
        "WEIGHTS_KEYS": ("ema", "model", "network", "diffusion_steps", "autoencoder"),
        "CALIBRATION_LATENTS": 64,
    },
    f"{WAV2VEC}/manifests": {"CHECKSUM_FILE": "checksum.txt", "SPLITS": ("train", "valid")},
    f"{WAV2VEC}/preparation": {"CORPUS_FOLDER": "speech", "MANIFEST_FOLDER": "lists"},
    f"{WAV2VEC}/sources": {"SUFFIXES": (".flac", ".wav"), "MAX_NAMES": 3},
    f"{WAV2VEC}/synthetic_speech": {
        "HOP": 256,
        "FFT_SIZE": 1024,
        "LEVEL": 0.06,
        "ROOM_NOISE": 1e-3,
        "FRICATIVES": {
            "s": (6000, 1200, 0.30),
            "ʃ": (3300, 900, 0.35),
            "f": (5000, 3000, 0.06),
            "h": (1500, 1000, 0.05),
        },
        "DESCRIPTION_FILE": "corpus.json",
    },
    f"{WAV2VEC}/fairseq_plugin": {"MODEL, TASK": ("dyt_wav2vec2", "dyt_audio_pretraining")},
    f"{DNA}/arabidopsis": {"HELD_OUT": {"test": 0.1, "valid": 0.05}},
    f"{DNA}/benchmark_files": {"PACK_FOLDER": "benchmarks", "SHORT": 10},
    f"{DNA}/finetuning": {"CALIBRATION_SEQUENCES": 32},
    f"{DNA}/genome": {"GZIP_SUFFIX": ".gz", "MAX_NAMES": 3},
    f"{DNA}/preparation": {
        "GENOME_FOLDER": "genome",
        "FASTA_FILE": "genome.fa",
        "INDEX_FILE": "index.fai",
        "BED_FILE": "intervals.bed",
        "TASK_FOLDER": "tasks",
    },
    f"{DNA}/pretraining": {
        "PRETRAINED_FILE": "pretrained.pth",
        "UNLEARNED_MARGIN": 0.01,
        "CALIBRATION_POSITIONS": 8192,
    },
    f"{CADUCEUS}/selective_scan": {
        "VARIABLE": "DYT_SCAN",
        "SCANS": ("mamba-ssm", "triton", "torch"),
    },
    f"{LLAMA}/config": {"REQUEST_TOKENS": 2048},
    f"{LLAMA}/gloss_word": {
        "HELD_OUT": 0.05,
        "QUESTIONS": 687,
        "CHOICES": 4,
        "MIN_WORDS, MAX_WORDS": (4, 24),
        "MIN_LETTERS": 4,
        "SEED": "gloss_word 1",
    },
    f"{LLAMA}/pretraining": {"CALIBRATION_SAMPLES": 32},
    f"{LLAMA}/sources": {"TOKENIZER_FILE": "tokenizer.json"},
    f"{LLAMA}/text_files": {"SUFFIXES": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")},
    f"{LLAMA}/token_data": {
        "FOLDER": "tokens",
        "MANIFEST": "tokens.json",
        "TOKENIZER": "tokenizer.json",
        "VERSION": 1,
        "SPLITS": ("train", "held_out"),
    },
    f"{LLAMA}/tokenization": {"SHOWN_SAMPLES": 3, "SHOWN_CHARACTERS": 200},
    f"{LLAMA}/weights": {"FOLDER": "weights", "NORM_FILE": "norm.json"},
    f"{LLAMA}/zero_shot": {"DTYPES": {"fp32": "float32", "bf16": "bfloat16"}},
    f"{LLAMA}/zero_shot_data": {"SUFFIXES": (".parquet", ".jsonl")},
    f"{UPSTREAM}/runner_options": {
        "RUNNER": "dyt_upstream.runner",
        "USER_ERROR": 64,
        "ERROR_PREFIX": "dyt: error: ",
    },
    f"{UPSTREAM}/script": {
        "OUTPUT": "output",
        "METRICS": "metrics.jsonl",
        "REPORT": "norms.json",
        "SPECIFICATION": "script.json",
        "FINGERPRINT": "first-steps.json",
    },
}
"""Pictures, names of files, and data that recorded results depend on."""

DIVISION_OF_WORK = {
    f"{DIT}/fid": {"DISTANCE_BLOCK": 2500},
    f"{DIT}/latent_cache": {"OTHER_OPEN_FILES": 1024},
    f"{WAV2VEC}/manifests": {"READER_THREADS": 8, "BLOCK": 1000},
    f"{DNA}/benchmark_files": {"BLOCK": 10_000},
    f"{DNA}/causal_convolution": {"GROUP_BYTES": 2**24},
    f"{DNA}/genome": {
        "BLOCK": 2**24,
        "HASHED_BLOCKS, HASHED_BLOCK": (16, 4096),
        "HEADERS": (4096, 2**20),
    },
    f"{CADUCEUS}/scan_backends/torch_loop": {"CHUNK": 32, "CACHED": 32_768},
    f"{CADUCEUS}/scan_backends/triton_scan": {"CHUNK": 64},
    f"{LLAMA}/initial_weights": {"BLOCK": 2**20},
    f"{LLAMA}/memory": {
        "LOSS_CHUNK": 4096,
        "FP32": 4,
        "RESIDUAL_BYTES": {"bf16-params": 2, "bf16-reduce": 2},
        "PRODUCT_BYTES": {"bf16": 2, "fp16": 2, "bf16-params": 2, "bf16-reduce": 2},
    },
    f"{LLAMA}/chunked_loss": {"IGNORED": -100},
    f"{LLAMA}/latency": {"PASSES": ("inference", "training"), "PRINTED_PASSES": 100},
    f"{LLAMA}/lm_eval_tasks": {"FEWSHOT_SEED": 1234},
    f"{LLAMA}/weights": {"MAX_FILE_BYTES": 5 * 10**9, "TOKENIZER_CONFIG": "tokenizer_config.json"},
    f"{LLAMA}/text_files": {"BLOCK": 2**20},
    f"{LLAMA}/tokenizers_io": {"BATCH": 1000},
    f"{LLAMA}/zero_shot": {"BLOCK": 256},
    f"{UPSTREAM}/processes": {"POLL_SECONDS": 0.2, "STOP_SECONDS": 10.0, "MAX_LINES": 200_000},
    f"{UPSTREAM}/script": {"SECONDS_BETWEEN_READINGS": 5.0, "SECONDS_BETWEEN_WRITINGS": 60.0},
}
"""Amounts at a time: a wrong one costs memory or time, and no other test would notice."""

TABLES = (FROM_PUBLICATIONS, PROMISED_TO_USERS, DIVISION_OF_WORK)
