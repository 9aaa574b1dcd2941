# The studies' backbone: a ResNet-18 of a quarter of its width, without the level of stride 4.
# Every detector takes the same one, so that all share a pre-training.
small_resnet = dict(
    depth=18,
    out_indices=(1, 2, 3),
    base_channels=16,
    stem_channels=16,
    # Nothing is frozen: it starts from random weights, or from a short pre-training on Tiny-ImageNet.
    frozen_stages=-1,
    norm_eval=False,
    init_cfg=None,
)
