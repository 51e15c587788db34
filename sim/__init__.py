"""The sky: orbits, contact windows, links, population, and a Flower Grid on a simulated clock."""
