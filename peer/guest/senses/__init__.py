"""What a node sees of the computer that it is a guest on."""
