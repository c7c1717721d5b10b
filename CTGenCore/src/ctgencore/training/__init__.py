"""Training of the embedded networks: recipes, procedural clips, the loop."""
