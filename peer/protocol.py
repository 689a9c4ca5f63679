"""The version of what peers say to each other."""

PROTOCOL_VERSION = 1
"""Version of everything on the wire; a manifest belongs to one."""
