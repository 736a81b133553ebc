"""The tasks of a plan as jobs: their order, environment and status, and how they are cancelled. Imports ``plan``."""
