"""Submitting a plan and watching it: tables, progress, and what to do about failures. Imported by the commands."""
