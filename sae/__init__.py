"""Sparse autoencoders: turn activations into sparse latents and back, and find, explain, attribute and edit latents.

Loading released dictionaries, training new ones, indexing what each latent fires on and clamping latents live here.
The package reads models through `hooked` alone and never imports `probes` or `interventions`.
"""

__all__: list[str] = []
