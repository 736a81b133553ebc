"""From a grid and a study to a plan of placed and priced runs. Imports ``settings``; starts nothing."""
