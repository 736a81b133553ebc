"""The files of a study, read into records: its runs, their labels, controls and chosen values. Imports nothing else of
analysis."""
