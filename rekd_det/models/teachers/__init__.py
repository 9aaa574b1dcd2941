"""The frozen teacher: how it is built, fed and run."""
