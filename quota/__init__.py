"""The vocabulary and its rules: accounts, periods, decisions, errors, settings; and Counters, the one door to Redis."""
