"""The parity ladder: checks, rung by rung, that the Lightning side computes what Keras computes.

The only package that sees both frameworks.
"""
