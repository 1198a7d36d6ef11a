"""The cvp command: what a person types on the machine."""
