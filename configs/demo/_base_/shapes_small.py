# The quickstart's data: fewer and smaller images than the demo's, and TensorBoard.
_base_ = "./shapes.py"

data_root = "work_dirs/quickstart/data/"
train_dataloader = dict(batch_size=8, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json", classwise=True)
test_evaluator = val_evaluator

train_cfg = dict(val_interval=2)
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="DetLocalVisualizer", name="visualizer", vis_backends=vis_backends)
# One image of each batch is drawn at a validation: ground truth on the left, detections on the right.
default_hooks = dict(visualization=dict(type="DetVisualizationHook", draw=True, interval=1, score_thr=0.2))
