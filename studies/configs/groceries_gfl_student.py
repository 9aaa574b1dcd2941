_base_ = "./_base_/groceries_gfl.py"
