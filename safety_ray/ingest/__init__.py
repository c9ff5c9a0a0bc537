"""Web documents in: JSONL and Parquet from anywhere, one row a document, bad ones set aside."""
