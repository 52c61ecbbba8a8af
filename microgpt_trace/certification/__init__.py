"""Tell whether an exported model is the same model as its original, and which tensors differ most."""
