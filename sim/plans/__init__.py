"""What the link carries in each contact: the contact plan."""
