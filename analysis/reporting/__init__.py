"""The report: answers, figures and tables on one page, in Markdown and in LaTeX. Imported by ``analysis.report``."""
