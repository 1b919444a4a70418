"""What serving and swapping cost here, beside other servers; run by `make bench-agent`."""
