"""Token rows in, a model out: the room of pretraining and finetuning (paper sections 4 and 5)."""
