"""From a grid and a study to a plan: runs with their placement, cost and time. Imports ``settings``; starts nothing."""
