"""The scorer: claims tickets, computes scores under the named weights, pushes them."""
