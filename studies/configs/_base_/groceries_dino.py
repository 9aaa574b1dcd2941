# A small DINO for photographs of 128 pixels: two layers in encoder and decoder instead of six, 60 queries instead of
# 900. It keeps DINO's 256 channels, for mmdet's decoder takes no other number.
_base_ = "./small_resnet.py"
from mmengine.hub import get_config  # noqa: E402

zoo = get_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py")
zoo.merge_from_dict(
    {
        "model.backbone": dict(**_base_.small_resnet, norm_cfg=dict(requires_grad=True)),
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
# For `optim_wrapper`, which groceries.py sets too: mmengine lets only one base set a key.
dino_optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=0.1))
