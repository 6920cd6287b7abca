"""Adaptations to libraries that are newer than a script; none of them concerns a norm."""
