"""DINO (facebookresearch/dino), written for torch 1.7, with newer libraries."""

from dyt_upstream.shims.old_libraries import restore_removed_names

restore_removed_names()
