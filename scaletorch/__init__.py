"""ScaleTorch: the same training program, spread over any mesh."""
