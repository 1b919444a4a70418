"""Rows of real data: read from files of many forms, kept on disk, told apart by digest."""
