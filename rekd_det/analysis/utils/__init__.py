"""What the analyses share: the pair, figures, tables, pages."""
