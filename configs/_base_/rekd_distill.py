# What every ReKD pair shares, but for `custom_hooks`. A pair reads `_base_.distill` into its own `model`; override it
# there (`model.distiller.loss.top_k=3`), a change of `distill` itself would come too late.
custom_imports = dict(imports=["rekd_det"], allow_failed_imports=False)
# Exact resume, and checkpoints that a kill can't damage; mmengine's own Runner works as well.
runner_type = "ReKDRunner"
rekd_hooks = [dict(type="mmrazor.PairCheckHook"), dict(type="mmrazor.DistillLogHook")]

# Not tuned on COCO: alpha and beta are DKD's for detectors, K is GDKD's, tau 1 is common to both.
distill = dict(
    type="mmrazor.ReKDDistill",
    distiller=dict(
        type="mmrazor.ReKDDistiller",
        loss=dict(type="mmrazor.ReKDLoss", top_k=5, alpha=1.0, beta=0.25, tau=1.0, tisd="joint"),
    ),
)
