"""On the ground: the ClientApp; a device profiles its data, trains its experts and reports."""
