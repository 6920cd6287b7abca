"""Adaptations of the environment to scripts that were written for older libraries; none of a norm."""
