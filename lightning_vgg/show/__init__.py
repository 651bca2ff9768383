"""Pictures of a network: its layers, its filters, what it makes of an image, and where it errs."""
