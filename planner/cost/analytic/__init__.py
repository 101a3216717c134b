"""Step time and memory of transformers by formulas, for arrays of plans."""
