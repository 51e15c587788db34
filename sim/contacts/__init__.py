"""The command ``python -m sim.contacts``: a contact planner of its own."""
