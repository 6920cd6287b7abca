"""A small upstream repository: one training script, written as research code is."""
