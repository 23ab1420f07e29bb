"""The trainer: pops the best candidates, takes optimizer steps, publishes weights, keeps records."""
