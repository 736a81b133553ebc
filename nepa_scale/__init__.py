"""Train and evaluate NEPA vision transformers of every size with DeepSpeed."""
