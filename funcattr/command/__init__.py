"""The command `funcattr explain`: from anyone's model and a file to a picture, on the command line."""
