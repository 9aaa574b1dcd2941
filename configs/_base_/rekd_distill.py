# What every ReKD pair shares, but for `custom_hooks`. A pair reads `_base_.distill` into its own `model`; override it
# there (`model.distiller.loss.top_k=3`), a change of `distill` itself would come too late.
# In the place of `custom_imports`, which a detector of your own may have: mmengine lets only one base set a key. (An
# `import` statement would turn this file into a config of mmengine's other style.)
__import__("rekd_det")
# Exact resume, and checkpoints that a kill can't damage; mmengine's own Runner works as well.
runner_type = "rekd_det.ReKDRunner"
rekd_hooks = [dict(type="mmrazor.PairCheckHook"), dict(type="mmrazor.DistillLogHook")]

# Not tuned on COCO, but by docs/study.md (a Faster R-CNN's softmax, generated images): with beta 1, the highest of 0,
# 0.25, 1 and 4, ReKD beat KD beside one teacher; beside a stronger one it was above KD by no more than the seeds'
# spread. K 3 to 12, alpha 0.5 to 4 and tau 2 made no difference that one seed can show; tau 4 was worse.
distill = dict(
    type="rekd_det.ReKDDistill",
    distiller=dict(
        type="mmrazor.ReKDDistiller",
        loss=dict(type="mmrazor.ReKDLoss", top_k=5, alpha=1.0, beta=1.0, tau=1.0, tisd="joint"),
    ),
)
