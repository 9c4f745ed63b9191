"""Reading the answer off other decodings of the same model."""
