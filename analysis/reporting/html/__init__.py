"""The page: its tables and templates."""
