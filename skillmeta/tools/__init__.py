"""Small commands about the installation itself."""
