"""What the program does because it runs on AWS: metrics, notices, leaving, and when to grow."""
