"""Plans of runs, and the tables, figures and report made from what they left on disk."""
