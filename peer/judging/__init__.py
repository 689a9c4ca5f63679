"""Judging what others contribute by what it does to the loss, and saying so in rounds."""
