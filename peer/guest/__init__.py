"""A good guest on someone's computer: when a node rests, what it may use, and what it tells of that."""
