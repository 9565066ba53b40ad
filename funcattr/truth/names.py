"""What is compared on."""

SUBJECTS = ("digits", "sentences", "photos")
"""The networks by name, the quick ones first."""
