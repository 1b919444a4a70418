"""The tests: they mirror the tree, and system/ holds those with real parts."""
