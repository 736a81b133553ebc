"""The processes of a run: which one this is, how they meet, how they stop, and what happens when one fails. Imports
``utils`` alone."""
