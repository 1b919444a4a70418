"""What operators and devices can have done: each service is one noun over store and core."""
