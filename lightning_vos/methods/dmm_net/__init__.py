"""DMM-Net: differentiable mask-matching network."""
