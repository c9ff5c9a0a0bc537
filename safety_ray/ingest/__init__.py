"""Read web documents from archives, pages and tables: one row for each document; reject bad records."""
