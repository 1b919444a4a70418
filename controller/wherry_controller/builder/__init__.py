"""The builder: a child process that makes variants of a version, measures them and packs them."""
