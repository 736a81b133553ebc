"""A report as Markdown and LaTeX."""
