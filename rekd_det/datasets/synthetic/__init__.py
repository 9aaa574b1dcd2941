"""A generated data set in COCO's format, with families of look-alike categories.

No network and no GPU is needed: numpy and OpenCV draw every image. Contact sheets alone need mmdet.
``build_dataset`` writes the folder that mmdet's COCO configs read when their ``data_root`` points
at it.
"""

from rekd_det.datasets.synthetic.coco_writer import build_dataset
from rekd_det.datasets.synthetic.shapes import PRESETS, render_scene

__all__ = ["PRESETS", "build_dataset", "render_scene"]
