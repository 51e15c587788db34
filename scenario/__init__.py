"""What server and devices derive alike from the run configuration."""
