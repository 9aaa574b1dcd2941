"""Accuracy studies: arms x seeds of detectors and classifiers, run by ``tools/study.py``."""
