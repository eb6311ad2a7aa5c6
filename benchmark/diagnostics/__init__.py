"""What is looked at beside the numbers of a cell: linearity of features, curves, mined prompts."""
