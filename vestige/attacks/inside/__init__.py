"""Looking at activations, and changing them."""
