"""Train a supernet: recipes, methods, data, one loop, and the run folder that the rest of deps reads."""
