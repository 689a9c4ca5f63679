"""What a volunteer may set, and where each value came from: built in, profile, file, environment, flag."""
