"""Watches what the models see and say, and asks for a new one when the policy says so.

- Whatever is found is a partition like any other: judged again from the same inputs, it stays as it is.
- What is not there yet (predictions never made, truth not known) is reported, and never an error.
- A night asks for a new model at most once, with its evidence.
"""
