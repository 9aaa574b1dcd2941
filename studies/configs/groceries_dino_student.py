# A small DINO for photographs of 128 pixels: two layers in encoder and decoder instead of six, 60 queries instead of
# 900. It keeps DINO's 256 channels, for mmdet's decoder takes no other number.
_base_ = "./_base_/groceries.py"
from mmengine.hub import get_config  # noqa: E402

zoo = get_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py")
zoo.merge_from_dict(
    {
        "model.backbone": dict(
            depth=18,
            base_channels=16,
            stem_channels=16,
            out_indices=(1, 2, 3),
            frozen_stages=-1,
            norm_eval=False,
            norm_cfg=dict(requires_grad=True),
            init_cfg=None,
        ),
        "model.neck": dict(in_channels=[32, 64, 128]),
        "model.num_queries": 60,
        "model.encoder.num_layers": 2,
        "model.encoder.layer_cfg.ffn_cfg.feedforward_channels": 512,
        "model.decoder.num_layers": 2,
        "model.decoder.layer_cfg.ffn_cfg.feedforward_channels": 512,
        "model.bbox_head.num_classes": 25,
        "model.dn_cfg.group_cfg": dict(num_dn_queries=20),
        "model.test_cfg.max_per_img": 30,
    }
)
model = zoo.model.to_dict()
del zoo
optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=0.1))

# 1.5 times the epochs of the other heads: queries learn slowly.
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=max_epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
