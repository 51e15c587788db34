"""What is taken home: a PEFT adapter or a merged checkpoint, and its model card."""
