# A pair as users of an earlier version wrote it, with every key that a config may hold. It must go on working, so do
# not bring it up to date: tests/test_old_config.py trains it. `student.py`, `teacher.pth` and the data lie beside it.
_base_ = ["./student.py"]

custom_imports = dict(imports=["rekd_det"], allow_failed_imports=False)
runner_type = "ReKDRunner"
optim_wrapper = dict(type="BF16OptimWrapper")
val_evaluator = dict(type="FasterCocoMetric")
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook", by_epoch=False, interval=2, max_keep_ckpts=1))
custom_hooks = [
    dict(type="mmrazor.PairCheckHook"),
    dict(type="mmrazor.DistillLogHook"),
    dict(type="mmrazor.DistillWarmupHook", iters=2),
    dict(type="mmrazor.StopDistillHook", stop_epoch=100),
]
model = dict(
    _delete_=True,
    type="mmrazor.ReKDDistill",
    architecture=_base_.model,
    data_preprocessor=_base_.model.data_preprocessor,
    teacher=dict(
        cfg_path="{{ fileDirname }}/student.py",
        cfg_options={"model.backbone.base_channels": 16, "model.neck.in_channels": [16, 32, 64, 128]},
    ),
    teacher_ckpt="{{ fileDirname }}/teacher.pth",
    teacher_fuse_bn=True,
    teacher_channels_last=True,
    teacher_dtype="bf16",
    teacher_compile=False,
    teacher_roi_gather=True,
    teacher_trainable=False,
    student_trainable=True,
    teacher_norm_eval=True,
    calculate_student_loss=True,
    init_cfg=None,
    distiller=dict(
        type="mmrazor.ReKDDistiller",
        rows="teacher",
        init_cfg=None,
        feature_losses=dict(
            loss_pkd=dict(type="mmrazor.PKDLoss", loss_weight=6.0, levels=[0, 1]),
            loss_cwd=dict(
                type="mmrazor.ChannelWiseDivergence",
                levels=[2],
                student_connector=dict(type="mmrazor.ConvModuleConnector", in_channel=16, out_channel=16),
            ),
        ),
        loss=dict(
            type="mmrazor.ReKDLoss",
            top_k=3,
            alpha=1.0,
            beta=0.5,
            tau=2.0,
            tisd="within",
            mass_weight=0.5,
            select_by="teacher",
            activation="softmax",
            gamma=0.0,
            reduction="mean",
            loss_weight=0.5,
            backend="fused",
        ),
    ),
)
