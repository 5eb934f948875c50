"""What each team brings: one folder a use case."""
