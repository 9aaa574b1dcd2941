"""Query heads: rows are queries, layer by layer."""
