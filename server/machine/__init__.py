"""What a run uses of the machine: its environment, processes, ports, proxies and GPUs."""
