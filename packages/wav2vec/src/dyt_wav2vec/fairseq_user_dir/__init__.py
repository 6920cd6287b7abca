"""Folder for fairseq's option ``common.user_dir``; importing it registers the plugins."""

import dyt_wav2vec.fairseq_plugin  # noqa: F401
