"""The trainer: pops the best candidates, takes steps, publishes weights, keeps records."""
