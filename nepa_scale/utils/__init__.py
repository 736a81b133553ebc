"""What every folder may import, and which imports none: errors, files, YAML, the terminal, and what commands share."""
