"""Peers that look at each other's connection: can you be dialled, how fast are you, how late is it."""
