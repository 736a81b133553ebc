"""Pictures of what a model attends to and predicts: numbers, choice, drawing."""
