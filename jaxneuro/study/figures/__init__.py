"""Figures as SVG: of one run, for its report, and of a study, for its folder and its page."""
