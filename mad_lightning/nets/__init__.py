"""Plain networks: nn.Modules without Lightning, for families that need a second file."""
