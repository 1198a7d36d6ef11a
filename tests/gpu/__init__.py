"""What only a GPU can show: `make gpu-check`. No part of `make test`, which runs where there is none."""
