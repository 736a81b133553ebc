"""From a grid and a study to priced runs."""
