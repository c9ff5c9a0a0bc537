"""Web documents in: crawls, pages and tables from anywhere; one row a document, bad ones rejected."""
