"""Study directories in; tables, laws and one HTML page out. Reads files only and never imports torch."""
