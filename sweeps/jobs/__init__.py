"""A task of a plan as a job: its chain, its environment, its status, and how it is cancelled. Imports ``plan``."""
