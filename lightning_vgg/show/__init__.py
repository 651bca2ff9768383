"""Pictures of a network: its layers, its filters, its activations, and its mistakes."""
