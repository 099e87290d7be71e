"""Small networks, distributions and the functional optimiser."""
