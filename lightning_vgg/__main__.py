"""``python -m lightning_vgg COMMAND``; DDP starts its other processes by this file."""

from lightning_vgg.cli import main

if __name__ == "__main__":
    main()
