"""Uses of private parts of ray, vllm and torch, one file per subject, with reasons and tested versions."""
