"""Training scripts of other repositories, unmodified, as matched LN/DyT runs."""
