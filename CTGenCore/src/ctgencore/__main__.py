"""``python -m ctgencore``: the form that Slicer, cluster workers and schedulers call."""

from .cli import main

if __name__ == "__main__":
    main()
