"""What ``tools/setup_env.py`` sets up: the stacks of packages, and the CUDA toolkit that compiles mmcv."""
