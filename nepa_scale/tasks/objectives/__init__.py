"""The objectives of pre-training, a file each; ``nepa_scale.config.objectives`` lists them."""
