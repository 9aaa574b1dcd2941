"""What a pair costs, how strongly it distils, and its mistakes, before training."""
