"""Variants run on the very runtime that their profile names, each in a process of its own.

    Place --> environments (an interpreter that has the runtime) --> server --> forked child a job
          --> emulation (another processor, by QEMU)

The server (`runner`) is a script without a package, since it runs where Wherry is not installed.
"""
