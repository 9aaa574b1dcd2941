# A small DINO for photographs of 128 pixels, so that two cores can train it: 3 levels from stride 16 instead of 4 from
# stride 8, one encoder layer and two decoder layers instead of six each, 30 queries instead of 900 (99 % of the
# photographs have at most 8 objects, none more than 13). It keeps DINO's 256 channels, for mmdet's decoder takes no
# other number.
_base_ = "./small_resnet.py"
from mmengine.hub import get_config  # noqa: E402

zoo = get_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py")
zoo.merge_from_dict(
    {
        "model.num_feature_levels": 3,
        "model.backbone": dict(_base_.small_resnet, out_indices=(2, 3), norm_cfg=dict(requires_grad=True)),
        "model.neck": dict(in_channels=[64, 128], num_outs=3),
        "model.num_queries": 30,
        "model.encoder.num_layers": 1,
        "model.encoder.layer_cfg": dict(self_attn_cfg=dict(num_levels=3), ffn_cfg=dict(feedforward_channels=256)),
        "model.decoder.num_layers": 2,
        "model.decoder.layer_cfg": dict(cross_attn_cfg=dict(num_levels=3), ffn_cfg=dict(feedforward_channels=256)),
        "model.bbox_head.num_classes": 25,
        "model.dn_cfg.group_cfg": dict(num_dn_queries=10),
        "model.test_cfg.max_per_img": 30,
    }
)
model = zoo.model.to_dict()
del zoo
# For `optim_wrapper`, which groceries.py sets too: mmengine lets only one base set a key.
dino_optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=0.1))
