"""What a device costs besides its training: ours, Flower's one node a device, pfl, and a bare loop."""
