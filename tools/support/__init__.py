"""The sweep over MMDetection's zoo that ``tools/check_support.py`` runs."""
