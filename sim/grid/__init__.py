"""SatelliteGrid: a Flower Grid whose messages move only inside contacts, on a simulated clock."""
