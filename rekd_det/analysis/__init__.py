"""Look at what a teacher knows, at what a student learnt, and at what runs logged. Used by ``tools/analysis``."""
