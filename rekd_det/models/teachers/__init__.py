"""The frozen teacher: how it is built, gets its input and is run."""
