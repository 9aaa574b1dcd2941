"""TestedCategoriesHook: a test on other categories than those of the training."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from rekd_det.engine.categories import named_categories
from rekd_det.utils.checkpoint_content import classes_of
from rekd_det.utils.errors import listing


class TestedCategoriesHook(Hook):
    """Warn if the test set has other categories than the tested checkpoint names, or in another order."""

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare them by label; a checkpoint that names none is not compared."""
        trained = classes_of(checkpoint)
        for tested in named_categories(runner.test_loop.dataloader):
            if trained is not None and tuple(tested) != trained:
                runner.logger.warning(
                    f"the checkpoint was trained on {len(trained)} categories, {listing(trained)}; the test set has "
                    f"{len(tested)}, {listing(tested)}. They are compared by number, so where these differ the "
                    "result is wrong"
                )
