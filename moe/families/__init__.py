"""What differs between families: where a block keeps its experts, how it is called and routed."""
