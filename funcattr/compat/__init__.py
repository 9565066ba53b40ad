"""The public names of other libraries, served by funcattr: their users change an import line."""
