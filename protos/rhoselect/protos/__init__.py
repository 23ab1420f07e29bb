"""The wire: messages and services of rhoselect.v1, and the code generated from them."""
