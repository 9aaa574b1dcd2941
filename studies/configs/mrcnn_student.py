_base_ = ["./_base_/mrcnn.py", "./_base_/masks.py"]
