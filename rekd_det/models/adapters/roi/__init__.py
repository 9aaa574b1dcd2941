"""R-CNN heads: rows are the RoIs that the student sampled."""
