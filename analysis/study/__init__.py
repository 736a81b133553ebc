"""What a study's files say: its runs and records, their labels, controls and chosen values. Imports ``laws`` alone."""
