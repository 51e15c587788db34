"""What a run says on a screen: in any alphabet, and after Flower has had its say."""
