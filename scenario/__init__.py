"""What server and devices derive alike from the run configuration: who, when, which text, which models."""
