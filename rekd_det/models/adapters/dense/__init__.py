"""Dense heads: rows are anchors, points, cells or locations of a heat map."""
