"""The processes of a run: which one this is, how they meet, how they are asked to stop."""
