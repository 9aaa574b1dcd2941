"""Accuracy studies: arms x seeds on generated data, run by ``tools/study.py``."""
