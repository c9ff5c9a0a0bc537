"""Training of a language model on token rows: pretraining and finetuning (paper, sections 4 and 5)."""
