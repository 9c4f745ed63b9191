"""The intrinsic side of an audit: what the states and weights of a model still hold, whatever it says."""
