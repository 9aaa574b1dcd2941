"""Runner, hooks and optimizer wrappers; importing them registers them."""

from . import hooks, optimizers, runner

__all__ = ["hooks", "optimizers", "runner"]
