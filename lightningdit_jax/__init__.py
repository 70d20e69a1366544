"""LightningDiT and VA-VAE in JAX and Flax, for TPU pods and GPUs."""
