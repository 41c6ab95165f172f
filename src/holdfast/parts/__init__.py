"""Floor 2: what networks and readers are made of. World <-> numbers, both ways."""
