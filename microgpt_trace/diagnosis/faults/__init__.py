"""The mistakes that are tested as explanations of a wrong operation. Each module lists the mistakes in one
part of a model."""
