"""The smaller model: shared layers, the whole router and some of the experts."""
