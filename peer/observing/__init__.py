"""Metrics of peers that nobody can connect to from outside: asked for over the swarm's own connections."""
