"""What was submitted: its records, and its way from one state to the next."""
