"""Tiny detectors and the check of a detector's pairing, as ``mmdet.testing``."""
