"""The app without Flower's processes: its ServerApp and ClientApp in this process, or in a pool of them."""
