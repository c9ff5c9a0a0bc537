"""scored + rewritten → the Data Safety Report Card (paper, section 3)."""
