"""Published training runs, read as models, plans and clusters."""
