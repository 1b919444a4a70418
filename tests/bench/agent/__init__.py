"""What serving and swapping cost on this machine, beside other servers; run by `make bench-agent`."""
