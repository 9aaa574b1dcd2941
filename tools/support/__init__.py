"""The check of MMDetection's zoo that ``tools/check_support.py`` runs."""
