"""The verbs of the command line, a file for each kind; they import what they need when they run."""
