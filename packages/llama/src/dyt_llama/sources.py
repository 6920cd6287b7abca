"""Data sources of the language models: text, a tokenizer, embedded texts, and zero-shot tasks.

The module imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from dyt_llama import docstrings, zero_shot_data
from dyt_llama.text_files import list_text_files
from matched import DataSource
from matched.data_files import refuse_pointer

TOKENIZER_FILE = "tokenizer.json"


def tokenizer_file(path: Path) -> Path:
    """Return the tokenizer.json that a path in site.toml names, directly or by its folder."""
    return path / TOKENIZER_FILE if path.is_dir() else path


def _check_text(path: Path) -> None:
    for file in list_text_files(path):
        refuse_pointer(file)


def _check_tokenizer(path: Path) -> None:
    file = tokenizer_file(path)
    refuse_pointer(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"there is no file {file}; expected the {TOKENIZER_FILE} of a fast tokenizer, such as "
            "that of meta-llama/Llama-2-7b-hf"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}; copy it again") from None
    if not isinstance(content, dict) or "model" not in content:
        raise ValueError(f"{file} has no entry 'model'; expected a file of the library tokenizers")


GLOSSES = DataSource(title="WordNet's glosses, in timm")
DOCSTRINGS = DataSource(title="docstrings of pinned packages", refusal=docstrings.version_refusal())
TEXT = DataSource(title="text", check=_check_text)
TOKENIZER = DataSource(title="tokenizer", check=_check_tokenizer)
ZERO_SHOT = DataSource(
    title="zero-shot tasks", check=zero_shot_data.check, survey=zero_shot_data.survey
)
