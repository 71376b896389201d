"""A bounded pickle interpreter that runs nothing, and torch's rebuild rules."""
