_base_ = "./_base_/groceries_frcnn.py"
