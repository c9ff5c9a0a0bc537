from token_rows import alone, tokenizer, write_rows
from validated_run import judge, validated, validated_rows

__all__ = ["alone", "judge", "tokenizer", "validated", "validated_rows", "write_rows"]
