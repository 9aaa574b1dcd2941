# The studies' Faster R-CNN with a mask branch: two convolutions instead of four, masks of 14 x 14 instead of 28 x 28.
_base_ = "./frcnn.py"

model = dict(
    type="MaskRCNN",
    roi_head=dict(
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=1),
            out_channels=64,
            featmap_strides=[8, 16, 32],
            finest_scale=20,
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=2,
            roi_feat_size=7,
            in_channels=64,
            conv_out_channels=64,
            num_classes=24,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=14)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
