"""What the records answer: each question of the report with its answer, effect and interval."""
