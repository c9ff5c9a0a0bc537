from token_rows import alone, tokenizer, write_rows

__all__ = ["alone", "tokenizer", "write_rows"]
