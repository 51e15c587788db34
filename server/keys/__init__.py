"""Who may talk to a SuperLink: its certificates, the nodes' keys, and telling the SuperLink of them."""
