"""`python -m broker`."""

from broker.loop import main
from shared.process import service

if __name__ == "__main__":
    service("broker", main)
