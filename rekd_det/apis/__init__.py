"""What the programs in ``tools/`` call."""
