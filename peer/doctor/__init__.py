"""What a volunteer's machine and connection are good for, before it joins: checks, fixes and a verdict."""
