"""On the ground: a device profiles its data, trains its experts and reports."""
